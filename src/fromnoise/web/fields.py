"""Values of a request, checked: what a browser sends has any type and size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fromnoise.utils.errors import UserError

_LONGEST_TEXT = 200


class Fields:
    """The fields of a form, each checked when it is read."""

    def __init__(self, values: object) -> None:
        """Wrap the fields.

        Args:
            values: a parsed JSON object, or a query.

        Raises:
            UserError: it is something else.
        """
        if not isinstance(values, Mapping):
            raise UserError("the request must be a JSON object")
        self.values: Mapping[str, Any] = values

    def text(self, key: str, default: str = "") -> str:
        """A text of one line; the default if it is missing.

        Raises:
            UserError: it is no text, too long, or has control characters.
        """
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not (value.isprintable() or value == ""):
            raise UserError(f"{key} must be one line of at most {_LONGEST_TEXT} characters")
        return value.strip()

    def optional_text(self, key: str) -> str | None:
        """As ``text``; None if it is missing or empty."""
        return self.text(key) or None

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of several words, by default the first.

        Raises:
            UserError: it is another.
        """
        value = self.text(key, choices[0])
        if value not in choices:
            raise UserError(f"{key} must be one of {', '.join(choices)}")
        return value

    def integer(self, key: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number; the default if it is missing or empty.

        Raises:
            UserError: it is no whole number, or out of range.
        """
        value = self.values.get(key)
        if value is None or value == "":
            return default
        try:
            number = int(value) if isinstance(value, str) and len(value) < 30 else value
        except ValueError:
            number = None
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise UserError(f"{key} must be a whole number from {low:,} to {high:,}")
        return number

    def number(self, key: str, default: float | None, low: float, high: float) -> float | None:
        """A number; the default if it is missing or empty.

        Raises:
            UserError: it is no number, or out of range.
        """
        value = self.values.get(key)
        if value is None or value == "":
            return default
        try:
            number = float(value) if isinstance(value, int | float | str) and len(str(value)) < 40 else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not low <= number <= high:  # false for NaN
            raise UserError(f"{key} must be a number from {low:g} to {high:g}")
        return number

    def flag(self, key: str) -> bool:
        """A truth value, by default false.

        Raises:
            UserError: it is something else.
        """
        value = self.values.get(key, False)
        if value not in (True, False, "true", "false", "", "on"):
            raise UserError(f"{key} must be true or false")
        return value in (True, "true", "on")
