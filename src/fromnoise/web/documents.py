"""What the documents of evaluations and clusterings say, read tolerantly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import read_bytes, read_text

_LARGEST = 16 << 20  # bytes


def evaluated(folder: Path) -> list[dict[str, Any]]:
    """Frechet distance and cost of each source of an evaluation; empty if its report.json cannot be read.

    Args:
        folder: of the report.

    Returns:
        For each source its ``name``, ``n``, ``nfe``, and ``value``, ``error`` and ``real_vs_real`` of the Frechet
        distance.
    """
    try:
        sources = json.loads(read_bytes(folder / "report.json", _LARGEST))["evaluations"]
        return [_source(folder.name, source) for source in sources if source.get("cost") and source.get("frechet")]
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _source(report: str, source: dict[str, Any]) -> dict[str, Any]:
    frechet = source["frechet"]
    numbers = {key: _number(frechet.get(key)) for key in ("value", "error", "real_vs_real")}
    return {"report": report, "name": str(source.get("name")), "n": _number(source.get("n"))} | {
        "nfe": _number(source["cost"].get("nfe")),
        **numbers,
    }


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 else None


def command_of(folder: Path) -> str | None:
    """The command line that made a document, which is its first block of code; None if it cannot be read.

    Args:
        folder: of report.md.
    """
    try:
        lines = read_text(folder / "report.md", _LARGEST).splitlines()[:20]
    except UserError:
        return None
    after = lines[lines.index("```") + 1 :] if "```" in lines else []
    return after[0] if after and after[0].startswith("fromnoise ") else None
