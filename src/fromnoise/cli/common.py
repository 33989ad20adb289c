"""Functions that several commands use."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def check_minimum(*limits: tuple[str, int | None, int]) -> None:
    """Check several numbers.

    Args:
        limits: for each number its flag, its value (None if it was not given) and its minimum.

    Raises:
        UserError: a number is too small.
    """
    from fromnoise.utils.errors import UserError

    for flag, number, minimum in limits:
        if number is not None and number < minimum:
            raise UserError(f"{flag} {number} is too small: use at least {minimum}")


def parse_times(flag: str, text: str) -> list[float]:
    """Parse times t in (0, 1], separated by commas.

    Raises:
        UserError: the text is something else.
    """
    from fromnoise.utils.errors import UserError

    try:
        times = [float(word) for word in text.split(",")]
    except ValueError:
        times = [0.0]
    if not all(0 < t <= 1 for t in times):
        raise UserError(f"{flag} {text} must be times in (0, 1]: write it as 1,0.5")
    return times


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write results in a form that programs read.

    Raises:
        UserError: as ``write_atomic``.
    """
    import json

    from fromnoise.utils.files import write_atomic

    write_atomic(path, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())
