"""Types of the values of recipe keys: numbers with bounds, sizes and pairs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _no_truth_value(value: Any) -> Any:
    """Refuse true and false, which Python takes for 1 and 0.

    Raises:
        ValueError: it is one of them.
    """
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Number = BeforeValidator(_no_truth_value)
Count = Annotated[int, Number, Field(ge=1)]
Share = Annotated[float, Number, Field(ge=0, le=1)]
Decay = Annotated[float, Number, Field(ge=0, lt=1)]
Positive = Annotated[float, Number, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Number, Field(ge=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=16384)]


def parse_size(value: Any) -> Any:
    """(height, width) from one side, ``32x48`` or a pair; "auto" is None.

    Raises:
        ValueError: it is none of these.
    """
    if value is None or value == "auto":
        return None
    if isinstance(value, str) and all(p.strip().isdecimal() for p in value.lower().split("x")):
        sides = [int(p) for p in value.lower().split("x")]
        value = sides * 2 if len(sides) == 1 else sides
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("write a side, such as 32, or height x width, such as 32x48")
    return value


def parse_pair(value: Any) -> Any:
    """Two numbers from ``a,b`` or a pair.

    Raises:
        ValueError: it is neither.
    """
    if value is None:
        return None
    try:
        first, last = value.split(",") if isinstance(value, str) else value
        return float(first), float(last)
    except (ValueError, TypeError):
        raise ValueError("write two numbers, such as 0.2,0.8") from None
