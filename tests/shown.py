"""Pictures to be shown, and read back."""

from __future__ import annotations

import numpy as np
import torch


def noise(*shape, seed=0):
    """Random uint8 images."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pixels(picture):
    """A picture as (H, W, 3)."""
    return np.asarray(picture.convert("RGB"))
