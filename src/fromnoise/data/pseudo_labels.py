"""Pseudo-labels: k-means clusters of the training images as labels of a model without labels.

Conditioning on clusters of the data improves an unconditional model as labels do (Bao et al. 2022, "Why are conditional
generative models better than unconditional ones?"): p(x) = sum_k p(k) p(x | k), where each p(x | k) is simpler than
p(x). The network is trained with the cluster of each image, and samples are generated with clusters drawn from p(k).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.diffusion.rng import Noise, Stream

MAX_SIDE = 16
"""Largest side of the downsampled images whose distances define the clusters, in pixels."""
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # golden ratio conjugate times 2^64, wrapped to int64
_UNUSED = 1e6  # coordinates of unused centroids, far from every image


class PseudoLabels(nn.Module):
    """Nearest-centroid assignment of images to clusters; its buffers are saved with the model's weights.

    Attributes:
        centroids: means of the downsampled images of each cluster, float32 (K, D).
        weights: fraction of the training images in each cluster, p(k), float32 (K,).
    """

    centroids: Tensor
    weights: Tensor

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        """Allocate the buffers; ``fit`` fills them.

        Args:
            count: largest number of clusters, K.
            shape: (C, H, W) of the images.
        """
        super().__init__()
        channels, height, width = shape
        self._stride = -(-max(height, width) // MAX_SIDE)
        size = channels * -(-height // self._stride) * -(-width // self._stride)
        self.register_buffer("centroids", torch.zeros(count, size))
        self.register_buffer("weights", torch.zeros(count))

    def downsample(self, x: Tensor) -> Tensor:
        """Average-pool images (B, C, H, W) in [-1, 1] to at most 16x16 pixels, flattened to float32 (B, D)."""
        return F.avg_pool2d(x.float(), self._stride, ceil_mode=True, count_include_pad=False).flatten(1)

    def fit(self, centroids: Tensor, points: Tensor) -> None:
        """Set the centroids, and the weights as the fractions of the points nearest to each centroid.

        Args:
            centroids: (k, D) with k at most K; the other K - k clusters stay empty.
            points: downsampled training images, (N, D).
        """
        self.centroids.fill_(_UNUSED)
        self.centroids[: len(centroids)] = centroids.to(self.centroids)
        counts = torch.bincount(self._nearest(points.to(self.centroids)), minlength=len(self.weights))
        self.weights.copy_(counts / len(points))

    def _nearest(self, points: Tensor) -> Tensor:
        return (self.centroids.square().sum(1) - 2 * points @ self.centroids.T).argmin(1)

    def assign(self, x0: Tensor) -> Tensor:
        """The clusters of clean images (B, C, H, W) in [-1, 1]: int64 (B,)."""
        return self._nearest(self.downsample(x0))

    def sample(self, seed: int, ids: Tensor, stratified: bool = True) -> Tensor:
        """Clusters for the samples ``ids``, stratified or i.i.d. with probabilities p(k).

        Stratified, sample i takes the quantile (u + i phi) mod 1 of p(k), with phi the golden ratio conjugate (Weyl
        1916) and u uniform, given by the seed: any run of n consecutive samples contains each cluster about n p(k)
        times. I.i.d. samples take the quantile of a uniform number of their own: only these compare with an i.i.d.
        sample of real images.

        Args:
            seed: of u.
            ids: numbers of the samples, int64 (B,).
            stratified: whether the clusters are stratified.

        Returns:
            Clusters, int64 (B,) on the CPU; each is a function of (seed, id).
        """
        cumulative = self.weights.cpu().double().cumsum(0)
        if stratified:
            steps = ((ids.cpu() * _GOLDEN) >> 11) & (2**53 - 1)  # int64 products wrap modulo 2^64: the fraction stays
            start = Noise(seed, torch.zeros(1, dtype=torch.int64)).uniform(Stream.PSEUDO_LABEL)
            u = (start + steps.double() / 2**53) % 1
        else:
            u = Noise(seed, ids.cpu()).uniform(Stream.PSEUDO_LABEL, 1)
        return torch.searchsorted(cumulative, u * cumulative[-1], right=True).clamp(max=len(cumulative) - 1)
