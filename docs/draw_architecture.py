"""The packages of fromnoise and who may import whom: the table of docs/architecture.md and its picture.

python docs/draw_architecture.py

Both are made from ROWS in tests/test_layers.py, which the code is tested against, and from the first line of each
package's docstring. tests/test_docs.py fails when the table is not the one that this program writes.
"""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def constant(name: str) -> object:
    """The value of a constant of tests/test_layers.py."""
    tree = ast.parse((ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise SystemExit(f"tests/test_layers.py has no {name}")


def rows() -> list[list[str]]:
    """The packages of each level, the lowest first; the package itself and ``__main__`` are left out."""
    found = [sorted(row - {"", "__main__"}) for row in constant("ROWS")]  # type: ignore[attr-defined]
    return [row for row in found if row]


def summary(package: str) -> str:
    """The first line of a package's or module's docstring."""
    base = ROOT / "src" / "fromnoise"
    path = base / package / "__init__.py" if (base / package).is_dir() else base / f"{package}.py"
    if not path.exists():
        return ""
    line = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
    return line.replace("|", "\\|")


def may_import(level: int, package: str) -> str:
    """What a package may import."""
    alone: dict[str, set[str]] = constant("ALONE")  # type: ignore[assignment]
    if package in alone:
        return (", ".join(sorted(alone[package])) or "the standard library") + " only"
    if level == 0:
        return "nothing of fromnoise"
    return "level 0" if level == 1 else f"levels 0 to {level - 1}"


def table() -> str:
    """The table in Markdown."""
    lines = ["| level | package | contents | may import |", "|---|---|---|---|"]
    for level, row in enumerate(rows()):
        lines += [f"| {level} | `{name}` | {summary(name)} | {may_import(level, name)} |" for name in row]
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def draw() -> None:
    """The levels as rows of boxes, the highest on top."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fromnoise", "font.family": "sans-serif"})
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    levels = rows()
    fig, ax = plt.subplots(figsize=(9, 0.85 * len(levels) + 0.3))
    ax.set_xlim(0, 9)
    ax.set_ylim(0, 0.85 * len(levels) + 0.3)
    ax.axis("off")
    for level, row in enumerate(levels):
        y = 0.85 * level + 0.3
        width = (8.2 - 0.15 * (len(row) - 1)) / len(row)
        ax.text(0.3, y + 0.28, str(level), ha="center", va="center", fontsize=10, color="#666666")
        for i, name in enumerate(row):
            x = 0.65 + i * (width + 0.15)
            box = FancyBboxPatch((x, y), width, 0.56, boxstyle="round,pad=0,rounding_size=0.08")
            box.set(facecolor=plt.get_cmap("Blues")(0.12 + 0.03 * level), edgecolor="#335577", linewidth=0.8)
            ax.add_patch(box)
            text = summary(name).replace("\\|", "|").replace("`", "")
            lines = textwrap.wrap(text, int(width * 14)) if len(row) < 4 else []
            shown = lines if len(lines) == 1 else []
            ax.text(x + width / 2, y + (0.38 if shown else 0.28), name, ha="center", va="center", fontsize=11)
            for line in shown:
                ax.text(x + width / 2, y + 0.14, line, ha="center", va="center", fontsize=7, color="#222222")
    fig.savefig(PICTURE, metadata={"Date": None}, bbox_inches="tight")
    PICTURE.write_text("\n".join(line.rstrip() for line in PICTURE.read_text().splitlines()) + "\n")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw()
