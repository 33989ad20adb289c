"""The two scales of pixel values: bytes in files and in memory, [-1, 1] in the network."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(pixels: Tensor) -> Tensor:
    """Convert bytes to [-1, 1]: ``x / 127.5 - 1``.

    Args:
        pixels: uint8, any shape.

    Returns:
        float32 of the same shape and device.
    """
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(x: Tensor) -> Tensor:
    """Convert [-1, 1] to the nearest byte: ``round((x + 1) 127.5)``, clamped to 0..255.

    NaN becomes mid-grey, because a cast of NaN to an integer is undefined.

    Args:
        x: any floating dtype, any shape.

    Returns:
        uint8 of the same shape and device.
    """
    x = x.to(torch.float32).nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
    return x.clamp(-1.0, 1.0).add(1.0).mul_(127.5).round_().to(torch.uint8)
