"""Numbers written together in one word of the command line."""

from __future__ import annotations

from fromnoise.utils.errors import UserError


def parse_pair(flag: str, word: str, between: str) -> tuple[int, int]:
    """Two whole numbers from 0, as ``a,b``.

    Raises:
        UserError: they are not.
    """
    parts = word.split(between)
    if len(parts) != 2 or not all(p.strip().isdecimal() for p in parts):
        raise UserError(f"{flag} {word} is no pair of numbers: write it as 3{between}5")
    return int(parts[0]), int(parts[1])


def parse_size(flag: str, word: str) -> tuple[int, int]:
    """Height and width, as ``32`` or ``32x48``.

    Raises:
        UserError: they are not, or not from 1 to 16384.
    """
    found = parse_pair(flag, word if "x" in word else f"{word}x{word}", "x")
    if not 1 <= min(found) <= max(found) <= 16384:
        raise UserError(f"{flag} {word} is no size of a picture: take sides from 1 to 16384")
    return found


def parse_list(flag: str, word: str) -> list[int]:
    """Whole numbers from 0 with commas between them.

    Raises:
        UserError: they are not.
    """
    parts = word.split(",")
    if not all(p.strip().isdecimal() and int(p) < 2**63 for p in parts):
        raise UserError(f"{flag} {word} is no list of numbers: write it as 3,17,204")
    return [int(p) for p in parts]


def parse_range(flag: str, word: str, least: int) -> list[int]:
    """One whole number, or several as ``5:20`` (at most six of them, evenly) or ``5:20:5``.

    Raises:
        UserError: they are not, or one is below ``least``.
    """
    parts = word.split(":")
    if len(parts) > 3 or not all(p.strip().isdecimal() and int(p) < 10_000 for p in parts):
        raise UserError(f"{flag} {word} is no number, nor several: write it as 10, 5:20 or 5:20:5")
    ends = [int(p) for p in parts]
    if ends[0] < least or ends[0] > ends[min(1, len(ends) - 1)] or ends[-1] < 1:
        raise UserError(f"{flag} {word} must be {least} or more, and rise: write it as 10, 5:20 or 5:20:5")
    if len(ends) == 1:
        return ends
    step = ends[2] if len(ends) == 3 else -(-(ends[1] - ends[0]) // 5) or 1
    return list(range(ends[0], ends[1] + 1, step))
