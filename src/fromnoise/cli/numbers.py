"""Numbers written together in one word of the command line."""

from __future__ import annotations

from fromnoise.errors import UserError


def pair(flag: str, word: str, between: str) -> tuple[int, int]:
    """Two whole numbers from 0, as ``a,b``.

    Raises:
        UserError: they are not.
    """
    parts = word.split(between)
    if len(parts) != 2 or not all(p.strip().isdecimal() for p in parts):
        raise UserError(f"{flag} {word} is no pair of numbers: write it as 3{between}5")
    return int(parts[0]), int(parts[1])


def size(flag: str, word: str) -> tuple[int, int]:
    """Height and width, as ``32`` or ``32x48``.

    Raises:
        UserError: they are not, or not from 1 to 16384.
    """
    found = pair(flag, word if "x" in word else f"{word}x{word}", "x")
    if not 1 <= min(found) <= max(found) <= 16384:
        raise UserError(f"{flag} {word} is no size of a picture: take sides from 1 to 16384")
    return found


def listed(flag: str, word: str) -> list[int]:
    """Whole numbers from 0 with commas between them.

    Raises:
        UserError: they are not.
    """
    parts = word.split(",")
    if not all(p.strip().isdecimal() and int(p) < 2**63 for p in parts):
        raise UserError(f"{flag} {word} is no list of numbers: write it as 3,17,204")
    return [int(p) for p in parts]
