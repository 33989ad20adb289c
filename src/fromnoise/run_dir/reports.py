"""The lines of reports.jsonl, read tolerantly: a damaged line is left out and counted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromnoise.utils.files import append, write_atomic
from fromnoise.utils.reading import read_bytes

ROUNDS = "rounds.json"
"""The file with the results of the E-steps; a run with it is a clustering."""
_COUNTS = ("step", "images", "dropped_steps")
_NUMBERS = ("loss", "lr", "budget_used", "grad_norm", "held_out_loss", "held_out_loss_raw")
_LARGEST = 2**63


@dataclass(frozen=True)
class ReadReports:
    """What a file of reports holds.

    Attributes:
        reports: the lines that are reports.
        dropped: numbers of the other lines, from 1.
        content: of the file.
    """

    reports: list[dict[str, Any]]
    dropped: list[int]
    content: bytes

    @property
    def notice(self) -> str | None:
        """What was dropped, in words; None if nothing was."""
        if not self.dropped:
            return None
        count, first = len(self.dropped), self.dropped[0]
        if count == 1:
            return f"line {first} is damaged and was left out"
        return f"{count:,} lines are damaged and were left out, the first is line {first}"


def read_reports(path: Path) -> ReadReports:
    """Read a file of reports; one that is missing has none.

    Raises:
        UnreadableFile: it is not a regular file, is too large, or cannot be read.
    """
    if not path.exists():
        return ReadReports([], [], b"")
    content = read_bytes(path)
    reports, dropped = [], []
    for number, line in enumerate(content.splitlines(), 1):
        report = parse_report(line)
        if report is not None:
            reports.append(report)
        elif line.strip():
            dropped.append(number)
    return ReadReports(reports, dropped, content)


def parse_report(line: bytes) -> dict[str, Any] | None:
    """A line of reports.jsonl; None if it is not a report."""
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) and _is_report(report) else None


def _is_report(report: dict[str, Any]) -> bool:
    timing, bins = report.get("timing", {}), report.get("loss_by_t", [])
    return (
        all(isinstance(report.get(key), int) and 0 <= report[key] < _LARGEST for key in _COUNTS)
        and all(_is_number(report.get(key)) for key in _NUMBERS)
        and isinstance(timing, dict)
        and isinstance(timing.get("seconds"), int | float)
        and all(_is_number(value) for value in timing.values())
        and isinstance(bins, list)
        and all(_is_number(value) for value in bins)
    )


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and abs(value) < _LARGEST)  # false for NaN


def write_reports(path: Path, reports: list[dict[str, Any]]) -> None:
    """Replace the file by these reports.

    Raises:
        UserError: as ``write_atomic``.
    """
    write_atomic(path, _lines(reports))


def append_reports(path: Path, reports: list[dict[str, Any]], to_disk: bool = True) -> None:
    """Append reports.

    Args:
        path: of the file.
        reports: its new lines.
        to_disk: flush all lines of the file to the disk.

    Raises:
        OSError: as ``append``.
    """
    append(path, _lines(reports), to_disk=to_disk)


def _lines(reports: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(report, allow_nan=False) + "\n" for report in reports).encode()
