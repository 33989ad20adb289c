"""The range of pixel values that are not bytes: [0, 1], [-1, 1], 0..255 or 0..65535."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_TOLERANCE = 1e-3  # by how much floats may exceed their range


@dataclass(frozen=True)
class ValueRange:
    """A linear map from pixel values to bytes, ``byte = scale * value + offset``.

    Attributes:
        scale: factor.
        offset: of the byte.
        description: the range in words, such as ``[0, 1]``.
    """

    scale: float
    offset: float
    description: str

    def to_uint8(self, array: np.ndarray) -> np.ndarray:
        """Convert values to the nearest byte; values outside of the range are clamped."""
        return np.rint(np.clip(array.astype(np.float64) * self.scale + self.offset, 0, 255)).astype(np.uint8)


UINT16 = ValueRange(1 / 257, 0.0, "0..65535")


def infer_value_range(kind: str, low: float, high: float) -> ValueRange | None:
    """Infer the range of values that are not bytes from their minimum and maximum.

    Args:
        kind: numpy's letter for the dtype: ``b`` bool, ``u`` and ``i`` integers, ``f`` floats.
        low: minimum.
        high: maximum.

    Returns:
        The narrowest of the usual ranges that contains all values; None if there is none.
    """
    if kind == "b":
        return ValueRange(255.0, 0.0, "false and true")
    if kind == "f":
        if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
            return ValueRange(255.0, 0.0, "[0, 1]")
        if low >= -1 - _TOLERANCE and high <= 1 + _TOLERANCE:
            return ValueRange(127.5, 127.5, "[-1, 1]")
    if low >= 0 and high <= 255:
        return ValueRange(1.0, 0.0, "0..255")
    if kind in "ui" and low >= 0 and high <= 65535:
        return UINT16
    return None
