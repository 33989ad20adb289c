"""The page on security: each promise has a test that exists, and each item of the review has tests of its number."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

from fromnoise.utils.reading import MAX_GB, MAX_PIXELS, Limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guide" / "security.md").read_text(encoding="utf-8")
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ITEMS = 15


def functions(path: Path) -> set[str]:
    """Names of the tests of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def promises() -> list[tuple[str, list[tuple[str, str]]]]:
    """The rows of the tables of promises, with their tests."""
    found, table = [], False
    for line in PAGE.splitlines():
        if line.startswith("| promise | tests |"):
            table = True
        elif not line.startswith("|"):
            table = False
        elif table and not line.startswith("|---"):
            promise, tests = line.strip("|").split("|")
            found.append((promise.strip(), REFERENCE.findall(tests)))
    return found


def test_every_promise_names_tests_that_exist():
    """The tests are there under these names."""
    rows = promises()
    assert len(rows) > 20
    assert [promise for promise, tests in rows if not tests] == []
    named = REFERENCE.findall(PAGE)
    missing = [f"{path}::{name}" for path, name in named if name not in functions(ROOT / path)]
    assert missing == []


def test_every_item_of_the_review_has_a_test():
    """C1 to C15, and the items of low weight."""
    names = set().union(*(functions(path) for path in Path(__file__).parent.glob("test_*.py")))
    numbers = {int(n) for name in names for n in re.findall(r"^test_c(\d+)_", name)}
    assert numbers == set(range(1, ITEMS + 1))
    assert any(name.startswith("test_low_") for name in names)


def test_the_limits_of_the_page_are_those_of_the_source():
    """Values and the variables that raise them."""
    limits = Limits()
    shown = {
        "array_bytes": f"{limits.array_bytes >> 30} GiB",
        "checkpoint_bytes": f"{limits.checkpoint_bytes >> 30} GiB",
        "image_bytes": f"{limits.image_bytes >> 30} GiB",
        "text_bytes": f"{limits.text_bytes >> 20} MiB",
        "pixels": f"{limits.pixels / 1e6:.0f} million",
        "expansion": f"{limits.expansion} times",
        "expansion_free": f"beyond {limits.expansion_free >> 20} MiB",
    }
    assert shown.keys() == {field.name for field in fields(Limits)}
    assert all(text in PAGE for text in shown.values())
    assert MAX_GB in PAGE and MAX_PIXELS in PAGE
