"""The results of a campaign as a table in Markdown: ``python tests/faults/campaign_table.py build/faults/*.json``."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

MEANING = {"0": "done", "2": "refused in one line", "130": "interrupted", "143": "terminated", "-9": "killed"}


def rows_of(paths: Sequence[Path]) -> list[dict]:
    """The rows of JSON files: kind, cases, codes, broken, seconds, seed, and optionally a remark."""
    return [row for path in paths for row in json.loads(path.read_text())]


def table(paths: Sequence[Path]) -> str:
    """Counts by kind, with the machine below."""
    lines = ["| kind | cases | how they ended | broke the rule | minutes | seed |", "|---|---|---|---|---|---|"]
    rows = rows_of(paths)
    for row in rows:
        ends = [f"{count} {MEANING.get(code, f'exit code {code}')}" for code, count in row["codes"].items()]
        if row.get("remark"):
            ends.append(row["remark"])
        minutes = f"{row['seconds'] / 60:.1f}"
        broken = len(row["broken"])
        lines.append(f"| {row['kind']} | {row['cases']} | {'; '.join(ends)} | {broken} | {minutes} | {row['seed']} |")
    cases, seconds = sum(row["cases"] for row in rows), sum(row["seconds"] for row in rows)
    broken = sum(len(row["broken"]) for row in rows)
    lines.append(f"| all | {cases} | | {broken} | {seconds / 60:.1f} | |")
    return "\n".join([*lines, "", machine()])


def machine() -> str:
    """Date, hardware and software in one line."""
    import torch

    from fromnoise import __version__

    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
    cores = len(os.sched_getaffinity(0))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {cpu}, {cores} cores, no GPU used; Python {platform.python_version()}, "
        f"torch {torch.__version__}, fromnoise {__version__}, Linux {platform.release().split('-')[0]}"
    )


if __name__ == "__main__":
    print(table([Path(word) for word in sys.argv[1:]]))
