"""Clusters that a model is told in place of labels: found by k-means in small copies of the images.

What labels give to an unconditional model, clusters of the data give as well (Bao et al. 2022, "Why are conditional
generative models better than unconditional ones?"): p(x) = sum_k p(k) p(x | k), each part simpler than the whole. The
network is told the cluster of each training image, and pictures are drawn of clusters dealt out by their shares.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.diffusion.noise import Draw, Noise

SIDE = 16
"""The copies' largest side, in pixels."""
EACH = 100
"""Images that a cluster has on average at least: of fewer images fewer clusters are found."""
_UNUSED = 1e6  # where a centre lies that no image is near


class Centres(nn.Module):
    """Where the clusters of some images lie and how many images each has; buffers, so kept with the weights."""

    place: Tensor
    share: Tensor

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        """Make room; ``find`` fills it.

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

    def find(self, points: Tensor, seed: int) -> int:
        """Look for clusters by k-means (Lloyd 1982).

        Args:
            points: small copies of the images, (N, D).
            seed: of the first centres.

        Returns:
            How many were found: at most one for every ``EACH`` points.
        """
        from sklearn.cluster import KMeans

        count = max(1, min(len(self.share), len(points) // EACH))
        found = KMeans(count, n_init="auto", random_state=seed % 2**32).fit(points.numpy())  # auto: one try
        self.place.fill_(_UNUSED)
        self.place[:count] = torch.from_numpy(found.cluster_centers_)
        self.share.copy_(torch.bincount(self._nearest(points.to(self.place)), minlength=len(self.share)) / len(points))
        return count

    def _nearest(self, points: Tensor) -> Tensor:
        return (self.place.square().sum(1) - 2 * points @ self.place.T).argmin(1)

    def of(self, x0: Tensor) -> Tensor:
        """The clusters of clean images (B, C, H, W) in [-1, 1]: int64 (B,)."""
        return self._nearest(self.small(x0))

    def deal(self, seed: int, ids: Tensor) -> Tensor:
        """Clusters for the samples ``ids`` (B,), by their shares: int64 (B,) on the CPU, each of (seed, id) alone."""
        total = self.share.double().cpu().cumsum(0)
        u = Noise(seed, ids.cpu()).uniform(Draw.CENTRE) * total[-1]
        return torch.searchsorted(total, u, right=True).clamp(max=len(total) - 1)
