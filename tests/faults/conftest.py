"""Settings of the fault campaigns, and their table at the end of a session."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from campaign_table import table

RESULTS = Path(os.environ.get("FROMNOISE_FAULT_RESULTS", "build/faults"))
_BEGIN = time.time()


def number(name: str, default: int) -> int:
    """A number from the environment variable ``FROMNOISE_FAULT_name``."""
    return int(os.environ.get(f"FROMNOISE_FAULT_{name}", default))


@pytest.fixture(scope="session")
def setting():
    """``setting("SEED", 1)`` is the value of FROMNOISE_FAULT_SEED, by default 1."""
    return number


@pytest.fixture(scope="session")
def results() -> Path:
    """The folder of the JSON files from which the table is made."""
    return RESULTS.absolute()


def pytest_terminal_summary(terminalreporter):
    """Print the counts of what this session ran."""
    paths = [p for p in sorted(RESULTS.glob("*.json")) if p.stat().st_mtime >= _BEGIN - 1]
    if paths:
        terminalreporter.section(f"fault campaign, seed {number('SEED', 1)} (FROMNOISE_FAULT_SEED)")
        terminalreporter.write_line(table(paths))
