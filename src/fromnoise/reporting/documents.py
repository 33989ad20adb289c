"""Documents made of blocks, written as one self-contained HTML page and as Markdown with figures in files."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from fromnoise.utils.files import write_atomic


@dataclass(frozen=True)
class Heading:
    """A heading of level 1, 2 or 3."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class BulletList:
    """A bullet list."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Code:
    """A code block."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def plain(self) -> str:
        """Aligned text, for a terminal."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in lines
        )


@dataclass(frozen=True)
class Figure:
    """A captioned image; its name is that of its file."""

    name: str
    image: Image
    caption: str

    def png(self) -> bytes:
        """The image as PNG."""
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG", optimize=True)
        return buffer.getvalue()


Block = Heading | Text | BulletList | Code | Table | Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .5rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top }
td span { white-space: nowrap }
th { overflow-wrap: break-word; vertical-align: bottom; font-size: .8rem }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 7rem }
thead th { border-bottom: 2px solid #888 }
table { font-size: .87rem }
img { max-width: 100%; image-rendering: pixelated }
figure { margin: 1rem 0 } figcaption { color: #555 }
pre { background: #f4f4f4; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere }
@media (max-width: 75rem) { img { image-rendering: auto } }
@media (max-width: 40rem) {
  table { font-size: .75rem } th { font-size: .7rem } th, td { padding: .2rem .25rem }
  th:first-child, td:first-child { min-width: 5rem }
}
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #ddd } pre { background: #262626 } th, td { border-color: #444 }
  figcaption { color: #aaa } img { background: #fff }
}
"""


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One HTML page with embedded images, without external resources.

    Args:
        title: of the page.
        blocks: of the document.
    """
    body = "\n".join(_html(b) for b in blocks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, BulletList):
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in block.lines) + "</ul>"
    if isinstance(block, Code):
        return f"<pre><code>{html.escape(block.text)}</code></pre>"
    if isinstance(block, Figure):
        data, caption = base64.b64encode(block.png()).decode(), html.escape(block.caption)
        source = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        return f'<figure id="{html.escape(block.name)}">{source}<figcaption>{caption}</figcaption></figure>'
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.head)
    rows = "".join("<tr>" + "".join(f"<td>{_cell(c)}</td>" for c in row) + "</tr>" for row in block.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(text: str) -> str:
    """A cell whose lines break before its error alone."""
    value, sign, error = html.escape(text).partition(" ± ")
    return f"<span>{value}</span> <span>± {error}</span>" if sign else value


def to_markdown(blocks: Sequence[Block]) -> str:
    """Markdown that refers to the figures as ``NAME.png``, where ``write_document`` saves them."""
    return "\n\n".join(_markdown(b) for b in blocks) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return "#" * block.level + " " + block.text
    if isinstance(block, Text):
        return block.text
    if isinstance(block, BulletList):
        return "\n".join(f"- {line}" for line in block.lines)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Figure):
        return f"![{block.caption}]({block.name}.png)\n\n{block.caption}"
    lines = [block.head, ["---", *["--:"] * (len(block.head) - 1)], *block.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write_document(folder: Path, title: str, blocks: Sequence[Block]) -> list[Path]:
    """Write ``report.html``, ``report.md``, and a PNG for each figure of the latter.

    Args:
        folder: created if it does not exist.
        title: of the HTML page.
        blocks: of the document.

    Returns:
        Paths of the HTML page and of the Markdown file.

    Raises:
        UserError: as ``files.write_atomic``.
    """
    for block in blocks:
        if isinstance(block, Figure):
            write_atomic(folder / f"{block.name}.png", block.png())
    page, text = folder / "report.html", folder / "report.md"
    write_atomic(page, to_html(title, blocks).encode())
    write_atomic(text, to_markdown(blocks).encode())
    return [page, text]
