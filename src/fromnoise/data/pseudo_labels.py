"""Clusters that a model is told in place of labels: the nearest of some centres to a small copy of the image.

What labels give to an unconditional model, clusters of the data give as well (Bao et al. 2022, "Why are conditional
generative models better than unconditional ones?"): p(x) = sum_k p(k) p(x | k), each part simpler than the whole. The
network is told the cluster of each training image, and pictures are drawn of clusters dealt out by their shares.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.diffusion.rng import Noise, Stream

SIDE = 16
"""The copies' largest side, in pixels."""
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the golden section times 2^64, as int64 has it
_UNUSED = 1e6  # where a centre lies that no image is near


class PseudoLabels(nn.Module):
    """Where the clusters of some images lie and what share of them each has; buffers, so kept with the weights."""

    place: Tensor
    share: Tensor

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        """Make room; ``settle`` fills it.

        Args:
            count: K, the most clusters there can be.
            shape: (C, H, W) of the images.
        """
        super().__init__()
        channels, height, width = shape
        self._stride = -(-max(height, width) // SIDE)
        size = channels * -(-height // self._stride) * -(-width // self._stride)
        self.register_buffer("place", torch.zeros(count, size))
        self.register_buffer("share", torch.zeros(count))

    def small(self, x: Tensor) -> Tensor:
        """Small copies of images (B, C, H, W) in [-1, 1], float32 (B, D)."""
        return F.avg_pool2d(x.float(), self._stride, ceil_mode=True, count_include_pad=False).flatten(1)

    def settle(self, places: Tensor, points: Tensor) -> None:
        """Take the clusters' places, and the shares of the points that each is nearest to.

        Args:
            places: (k, D), at most K; those left over are no image's.
            points: small copies of images, (N, D).
        """
        self.place.fill_(_UNUSED)
        self.place[: len(places)] = places.to(self.place)
        counts = torch.bincount(self._nearest(points.to(self.place)), minlength=len(self.share))
        self.share.copy_(counts / len(points))

    def _nearest(self, points: Tensor) -> Tensor:
        return (self.place.square().sum(1) - 2 * points @ self.place.T).argmin(1)

    def of(self, x0: Tensor) -> Tensor:
        """The clusters of clean images (B, C, H, W) in [-1, 1]: int64 (B,)."""
        return self._nearest(self.small(x0))

    def deal(self, seed: int, ids: Tensor) -> Tensor:
        """Clusters for the samples ``ids`` (B,), by their shares: int64 (B,) on the CPU, each of (seed, id) alone.

        Evenly: samples that follow each other have their places in [0, 1) a golden section apart (Weyl 1916), from a
        place that the seed draws, so that any n of them hold each cluster about as often as its share of n says.
        """
        total = self.share.cpu().double().cumsum(0)
        steps = ((ids.cpu() * _GOLDEN) >> 11) & (2**53 - 1)  # int64 products wrap modulo 2^64: the fraction stays
        u = (Noise(seed, torch.zeros(1, dtype=torch.int64)).uniform(Stream.CENTRE) + steps.double() / 2**53) % 1
        return torch.searchsorted(total, u * total[-1], right=True).clamp(max=len(total) - 1)
