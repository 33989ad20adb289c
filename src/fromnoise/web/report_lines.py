"""Curves of a run from its reports.jsonl, read in a bounded number of lines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fromnoise.run_dir.reports import parse_report
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import limits, open_regular, read_bytes

POINTS = 400
"""Points of a curve, at most."""
_TAIL = 1 << 16


def last_report(path: Path) -> dict[str, Any] | None:
    """The last complete report; None if there is none, or the file cannot be read."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL))
            lines = file.read(_TAIL).splitlines()
    except (OSError, UserError):
        return None
    return next((report for line in reversed(lines) if (report := parse_report(line)) is not None), None)


def curves(path: Path, points: int = POINTS) -> dict[str, Any]:
    """The curves of a run.

    Args:
        path: of reports.jsonl.
        points: of each curve, at most; of a longer one equally spaced lines are read, the last among them.

    Returns:
        ``step``, ``loss``, ``images_per_second`` and ``lr`` of the lines that were read; ``held_out`` with ``step``,
        ``loss`` and ``loss_raw`` of those with a held-out loss; ``by_t``: of the last with it, ten losses; and
        ``evaluations``: the distances that the run measured of itself.
    """
    try:
        lines = read_bytes(path, limits().text_bytes).splitlines() if path.exists() else []
    except (OSError, UserError):
        lines = []
    measured = [line for line in lines if b'"held_out_loss"' in line]
    evaluated = [line for line in lines if b'"evaluation"' in line]
    reports = _parse(_thinned(lines, points))
    held_out = [r for r in _parse(_thinned(measured, points)) if r.get("held_out_loss") is not None]
    by_t = next((r["loss_by_t"] for r in reversed(held_out) if r.get("loss_by_t")), None)
    return {
        "step": [r["step"] for r in reports],
        "loss": [r["loss"] for r in reports],
        "lr": [r["lr"] for r in reports],
        "images_per_second": [r["timing"].get("images_per_second") for r in reports],
        "held_out": {
            "step": [r["step"] for r in held_out],
            "loss": [r["held_out_loss"] for r in held_out],
            "loss_raw": [r.get("held_out_loss_raw") for r in held_out],
        },
        "by_t": by_t,
        "evaluations": [
            {"step": r["step"], "evaluation": r["evaluation"]}
            for r in _parse(_thinned(evaluated, points))
            if isinstance(r.get("evaluation"), dict)
        ],
        "lines": len(lines),
    }


def _parse(lines: list[bytes]) -> list[dict[str, Any]]:
    found = [parse_report(line) for line in lines]
    return [r for r in found if r is not None and "step" in r and "timing" in r and "loss" in r and "lr" in r]


def _thinned(lines: list[bytes], points: int) -> list[bytes]:
    """At most ``points`` of the lines, equally spaced, with the first and the last."""
    if len(lines) <= points:
        return lines
    return [lines[round(i * (len(lines) - 1) / (points - 1))] for i in range(points)]
