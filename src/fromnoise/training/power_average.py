"""The profile of power-function averages (Karras et al. 2024)."""

from __future__ import annotations

import math


def power_function_exponent(width: float) -> float:
    """Exponent g of the power-function average of a relative width.

    The average weighs the parameters at time t of a run by t^g. Its width is the standard deviation of that profile,
    relative to the length of the run: width = (g + 1)^(1/2) / ((g + 2) (g + 3)^(1/2)) (Karras et al. 2024, eq. 126).

    Args:
        width: in (0, 12^(-1/2)]; the largest is the plain mean, g = 0.

    Raises:
        ValueError: the width is out of range.
    """
    if not 0 < width <= 12**-0.5:
        raise ValueError(f"a relative width lies in (0, 0.288], not {width}")
    low, high = 0.0, 1.0

    def width_of(g: float) -> float:
        return math.sqrt((g + 1) / (g + 3)) / (g + 2)

    while width_of(high) > width:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if width_of(middle) > width else (low, middle)
    return (low + high) / 2
