"""The documentation agrees with the code: the table of packages, links, commands, programs, and names of the source."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import io
import re
import shlex
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
FENCE = re.compile(r"^[ ]*```([\w+-]*)[^\n]*\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
GENERATED = {"index", "components", "recipes", "recipe-keys", "command-line"}


def load(path: Path):
    """A program of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    found = [text for name, text in FENCE.findall(path.read_text(encoding="utf-8")) if name == language]
    return [textwrap.dedent(text) for text in found if "--8<--" not in text]  # a file that is shown is tested itself


def prose(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text(encoding="utf-8")))


def name(path: Path) -> str:
    """Path of a page below the root."""
    return str(path.relative_to(ROOT))


def commands(path: Path) -> Iterator[list[str]]:
    """The arguments of every ``fromnoise`` command in the shell blocks of a page."""
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for i, word in enumerate(words):
                if Path(word).name == "fromnoise" and (i == 0 or words[i - 1] == "-m"):
                    yield words[i + 1 :]
                    break


def test_architecture_table_matches_the_layers_test():
    """Level, package and rule of every row are those that ``test_layers`` enforces."""
    program = load(DOCS / "draw_architecture.py")
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    written = re.findall(r"^\| (\d+) \| `(\w+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    expected = [
        (str(level), package, program.may_import(level, package))
        for level, row in enumerate(program.rows())
        for package in row
    ]
    assert written == expected, "run python docs/draw_architecture.py"


def test_every_package_has_a_level():
    """No package of the source is missing from the table."""
    source = ROOT / "src" / "fromnoise"
    found = {p.name for p in source.iterdir() if (p / "__init__.py").exists()}
    found |= {p.stem for p in source.glob("*.py") if not p.stem.startswith("__")}
    assert found == {package for row in load(DOCS / "draw_architecture.py").rows() for package in row}


def test_architecture_picture_shows_every_package():
    """The picture was drawn from the same rows."""
    text = (DOCS / "images" / "architecture.svg").read_text(encoding="utf-8")
    missing = [p for row in load(DOCS / "draw_architecture.py").rows() for p in row if f">{p}<" not in text]
    assert missing == [], "run python docs/draw_architecture.py"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_and_images_exist(path):
    """Every relative link of a page leads to a file, or to a page that the build generates."""
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        file = (path.parent / target.split("#")[0]).resolve()
        generated = file.parent == DOCS / "reference" and (
            file.stem in GENERATED
            or (ROOT / "src" / "fromnoise" / file.stem).is_dir()
            or (ROOT / "src" / "fromnoise" / f"{file.stem}.py").exists()
            or file.stem == "fromnoise"
        )
        if not (file.exists() or generated):
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_files_that_a_page_mentions_exist(path):
    """Scripts, tests and source files are named as they are called today."""
    mentioned = re.findall(r"\b(?:benchmarks|tests|examples|docs)/[\w/.-]+\.\w+", path.read_text(encoding="utf-8"))
    assert [m for m in mentioned if not (ROOT / m).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_names_of_the_source_exist(path):
    """Every cross reference of a page names something of the source."""
    assert [n for n in re.findall(r"\]\[(fromnoise[\w.]*)\]", prose_with_code(path)) if not defined(n)] == []


def prose_with_code(path: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def defined(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, or is defined in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        base = ROOT / "src" / Path(*parts[:cut])
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if path.exists():
            return _in_body(ast.parse(path.read_text(encoding="utf-8")).body, parts[cut:])
    return False


def _in_body(body: list[ast.stmt], names: list[str]) -> bool:
    if not names:
        return True
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == names[0]:
            return _in_body(node.body, names[1:])
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if len(names) == 1 and any(isinstance(t, ast.Name) and t.id == names[0] for t in targets):
            return True
    return False


@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "sh")], ids=name)
def test_commands_are_understood(path, monkeypatch, capsys):
    """Every command in a shell block parses, and the keys of a recipe that it sets exist."""
    from fromnoise import cli, config

    seen = []
    for module in cli.VERBS.values():
        monkeypatch.setattr(module, "run", lambda args: seen.append(args) or 0)
    for words in commands(path):
        try:
            assert cli.main(words) == 0, words
        except SystemExit as stop:
            assert stop.code == 0, (words, capsys.readouterr().err)
    for args in seen:
        if args.verb == "train":
            config.load(args.recipe, cli.train.overrides(args))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_recipe_keys_exist(path):
    """Every key of a recipe that a page mentions is one."""
    from fromnoise import config

    known = set(config.keys())
    parts = "|".join({key.split(".")[0] for key in known if "." in key})
    mentioned = re.findall(rf"(?:`|--)((?:{parts})\.[a-z_.]+[a-z_])\b", path.read_text(encoding="utf-8"))
    unknown = {key for key in mentioned if key not in known and not key.endswith((".png", ".py", ".kind"))}
    assert unknown - {"sample.sampler.damping"} == set(), "the exception is the plug-in of docs/guide/plugins.md"


@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_programs_compile_and_import_what_exists(path):
    """Python blocks are valid, and what they import from fromnoise is there."""
    for text in blocks(path, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fromnoise":
                module = importlib.import_module(node.module)
                assert [a.name for a in node.names if not hasattr(module, a.name)] == [], node.module
            if isinstance(node, ast.Attribute) and re.fullmatch(r"fn(\.\w+)+", ast.unparse(node)):
                thing = importlib.import_module("fromnoise")
                for part in ast.unparse(node).split(".")[1:]:
                    thing = getattr(thing, part)


def code_lines(text: str) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_line_counts_of_the_comparison_are_true():
    """The table has the number of lines of each program, and ours is the shortest."""
    page = (DOCS / "guide" / "comparison.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (?:[\w-]+ \()?(\w+)\)? \| (\d+) \|", page, re.MULTILINE)
    counted = {path.stem.removeprefix("with_"): path for path in (DOCS / "comparison").glob("with_*.py")}
    assert dict(table) == {name: str(code_lines(path.read_text())) for name, path in counted.items()}
    assert min(table, key=lambda row: int(row[1]))[0] == "fromnoise"


def test_comparison_program_runs(tmp_path, monkeypatch, capsys):
    """Our program trains, saves, is resumed, samples and evaluates, at a smaller scale."""
    from PIL import Image

    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (240, 20, 24, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    text = (DOCS / "comparison" / "with_fromnoise.py").read_text()
    smaller = {
        "size=32": "size=8",
        "size=(32, 32), width=64": "size=(8, 8), width=8",
        "batch=128": "batch=8",
        "5_000": "3",
        "1_000, sampler": "12, sampler",
        "steps=50": "steps=2",
        "inception": "pixels",
    }
    for old, new in smaller.items():
        assert old in text
        text = text.replace(old, new)
    monkeypatch.chdir(tmp_path)
    printed = []
    for _ in range(2):
        exec(compile(text, "with_fromnoise.py", "exec"), {"__name__": "__main__"})
        printed.append(capsys.readouterr().out)
    assert "Frechet" in printed[0] and printed[0] == printed[1]
    assert (tmp_path / "runs" / "fromnoise" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", DOCS / "guide" / "python.md", DOCS / "guide" / "index.md"], ids=name
)
def test_programs_of_the_library_run(path, tmp_path, monkeypatch):
    """The Python blocks of the pages on the library, in order, with fewer steps."""
    from fromnoise import cli

    monkeypatch.chdir(tmp_path)
    small = ["--network.width", "8", "--network.groups", "4", "--train.previews", "0", "--sample.count", "0"]
    assert cli.main(["train", "digits", "--steps", "2", *small]) == 0
    for text in blocks(path, "python"):
        for many in ("5_000", "1_000"):
            text = text.replace(f"steps={many}", "steps=2")
        text = text.replace("range(100)", "range(2)").replace("UNet(1, 1, ", "UNet(1, 1, width=8, ")
        exec(compile(text, name(path), "exec"), {"__name__": "__main__"})
