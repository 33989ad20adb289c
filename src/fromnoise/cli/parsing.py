"""Words of the command line: values, and flags that hold several numbers in one word."""

from __future__ import annotations

from typing import Any

from fromnoise.utils.errors import UserError


def parse_value(text: str) -> Any:
    """Parse a word of the command line: a TOML value, numbers with commas as a list, or else the string itself."""
    import tomllib

    for candidate in (text.strip(), f"[{text}]" if "," in text else ""):
        try:
            return tomllib.loads(f"v = {candidate}")["v"]
        except (ValueError, RecursionError, KeyError):  # a ValueError also of a number with thousands of digits
            continue
    return {"True": True, "False": False}.get(text, text)


def parse_pair(flag: str, word: str) -> tuple[int, int]:
    """Parse two whole numbers from 0, such as ``3,5``.

    Raises:
        UserError: the word is something else.
    """
    parts = word.split(",")
    if len(parts) != 2 or not all(p.strip().isdecimal() for p in parts):
        raise UserError(f"{flag} {word} is not two whole numbers: write it as 3,5")
    return int(parts[0]), int(parts[1])


def parse_size(flag: str, word: str) -> tuple[int, int]:
    """Parse height and width, as ``32`` or ``32x48``.

    Raises:
        UserError: the word is something else, or a side is not from 1 to 16384.
    """
    parts = word.lower().split("x")
    if len(parts) > 2 or not all(p.strip().isdecimal() for p in parts):
        raise UserError(f"{flag} {word} is not an image size: write it as 32, or as 32x48 for height x width")
    sides = int(parts[0]), int(parts[-1])
    if not 1 <= min(sides) <= max(sides) <= 16384:
        raise UserError(f"{flag} {word} is not an image size: use sides from 1 to 16384")
    return sides


def parse_list(flag: str, word: str) -> list[int]:
    """Parse whole numbers from 0 that are separated by commas.

    Raises:
        UserError: the word is something else.
    """
    parts = word.split(",")
    if not all(p.strip().isdecimal() and int(p) < 2**63 for p in parts):
        raise UserError(f"{flag} {word} is not a list of whole numbers: write it as 3,17,204")
    return [int(p) for p in parts]


def parse_range(flag: str, word: str, minimum: int, intervals: int | None = 5) -> list[int]:
    """Parse one whole number, or a range as ``5:20`` or ``5:20:5``.

    Args:
        flag: for messages.
        word: of the command line.
        minimum: of the numbers.
        intervals: a range without a step has up to so many, evenly spaced, between its numbers; all numbers if None.

    Raises:
        UserError: the word is something else, or a number is below ``minimum``.
    """
    parts = word.split(":")
    if len(parts) > 3 or not all(p.strip().isdecimal() and int(p) < 10_000 for p in parts):
        raise UserError(f"{flag} {word} is neither a whole number nor a range: write it as 10, 5:20 or 5:20:5")
    numbers = [int(p) for p in parts]
    if numbers[0] < minimum or numbers[0] > numbers[min(1, len(numbers) - 1)] or numbers[-1] < 1:
        raise UserError(f"{flag} {word} must be {minimum} or more, in ascending order: write it as 10, 5:20 or 5:20:5")
    if len(numbers) == 1:
        return numbers
    even = -(-(numbers[1] - numbers[0]) // intervals) or 1 if intervals is not None else 1
    step = numbers[2] if len(numbers) == 3 else even
    return list(range(numbers[0], numbers[1] + 1, step))
