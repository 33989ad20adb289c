"""Pixels as features."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.nn import functional as F

from fromnoise.evaluation.features.extractor import FeatureBatch, FeatureExtractor

_MAX_DIM = 1024


@final
class PixelFeatures(FeatureExtractor):
    """Pixels in [0, 1], averaged over squares so that an image has at most 1,024 features.

    Attributes:
        shape: (C, H, W) of the images.
        square: side of the squares in pixels.
    """

    name = "pixels"

    def __init__(self, shape: tuple[int, int, int]) -> None:
        """Choose the squares for images of shape (C, H, W)."""
        channels, height, width = shape
        self.shape, self.square = shape, 1
        while channels * -(-height // self.square) * -(-width // self.square) > _MAX_DIM:
            self.square += 1
        self.dim = channels * -(-height // self.square) * -(-width // self.square)
        side = self.square
        self.description = f"pixels, averaged over squares of {side}x{side}" if side > 1 else "pixels"

    def extract(self, images: Tensor) -> FeatureBatch:
        """See ``FeatureExtractor``."""
        x = images.double() / 255
        if self.square > 1:
            x = F.avg_pool2d(x, self.square, ceil_mode=True)  # a square at the border averages its pixels in the image
        return FeatureBatch(x.flatten(1))
