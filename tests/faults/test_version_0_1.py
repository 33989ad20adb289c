"""Each item of the review has tests that carry its number, and fails on version 0.1 by ``on_version_0_1.py``."""

from __future__ import annotations

import re
from pathlib import Path

import version_0_1_faults  # noqa: F401
import version_0_1_low  # noqa: F401
from version_0_1_numbers import ITEMS

ROOT = Path(__file__).parents[2]
NUMBERS = [*(f"B{i}" for i in range(1, 11)), *(f"C{i}" for i in range(1, 16))]


def test_every_item_has_tests_of_its_number():
    """And a reproduction on version 0.1."""
    names = {m for path in (ROOT / "tests").rglob("test_*.py") for m in re.findall(r"def test_(\w+)", path.read_text())}
    for number in [*NUMBERS, "low"]:
        assert any(name.startswith(f"{number.lower()}_") for name in names), number
    assert {name for name in ITEMS if not name.startswith("Low")} == set(NUMBERS)


def test_the_page_of_results_has_every_item():
    """With what version 0.1 did; every item fails there."""
    page = (ROOT / "docs" / "results" / "faults.md").read_text()
    for name, (what, _) in ITEMS.items():
        assert f"| {name} | {what} | yes |" in page, name
