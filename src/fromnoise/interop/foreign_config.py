"""The options of a foreign configuration: each is read with its type, and what is not supported is named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import printable

T = TypeVar("T")
_LONGEST = 60  # characters of a value in a message


class ForeignConfig:
    """A configuration of which every option that is read must have a supported value."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep the values.

        Args:
            name: of the file, for messages.
            values: option by name.
        """
        self.name, self.values = name, values
        self._known: set[str] = set()

    def get(self, option: str, default: Any) -> Any:
        """A value of any type."""
        self._known.add(option)
        return self.values.get(option, default)

    def refuse(self, option: str, expected: str) -> UserError:
        """The error for an unsupported value."""
        shown = repr(self.values.get(option))
        shown = shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "..."
        return UserError(printable(f"{self.name}: {option} = {shown} is not supported; expected {expected}"))

    def choice(self, option: str, default: Any, known: Mapping[Any, T] | Sequence[T]) -> T:
        """A value out of a list, or what it is mapped to.

        Raises:
            UserError: it is not in the list.
        """
        value = self.get(option, default)
        table = known if isinstance(known, Mapping) else {k: k for k in known}
        if isinstance(value, list | dict) or value not in table:
            raise self.refuse(option, " or ".join("null" if k is None else str(k) for k in table))
        return table[value]

    def flag(self, option: str, default: bool) -> bool:
        """True or false.

        Raises:
            UserError: it is something else.
        """
        value = self.get(option, default)
        if not isinstance(value, bool):
            raise self.refuse(option, "true or false")
        return value

    def integer(self, option: str, default: int, low: int, high: int) -> int:
        """A whole number.

        Raises:
            UserError: it is something else, or out of range.
        """
        value = self.get(option, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refuse(option, f"a whole number from {low} to {high}")
        return value

    def optional_integer(self, option: str, low: int, high: int) -> int | None:
        """A whole number or null.

        Raises:
            UserError: as ``integer``.
        """
        return None if self.get(option, None) is None else self.integer(option, low, low, high)

    def number(self, option: str, default: float) -> float:
        """A finite number.

        Raises:
            UserError: it is something else.
        """
        value = self.get(option, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
            raise self.refuse(option, "a number")
        try:
            return float(value)
        except OverflowError:
            raise self.refuse(option, "a number") from None

    def many(self, option: str, default: Sequence[Any], kind: type, most: int) -> list[Any]:
        """A list of at most ``most`` values of one type.

        Raises:
            UserError: it is something else.
        """
        value = self.get(option, default)
        kinds = (float, int) if kind is float else (kind,)
        right = isinstance(value, list | tuple) and len(value) <= most
        if not right or any(isinstance(v, bool) or not isinstance(v, kinds) for v in value):
            raise self.refuse(option, f"a list of at most {most} values of type {kind.__name__}")
        return list(value)

    def unread(self) -> list[str]:
        """Options that nothing has read; names with a leading underscore are the foreign library's own."""
        return sorted(printable(str(k)) for k in self.values if k not in self._known and not str(k).startswith("_"))
