"""Copies of training images that were blurred, shifted, made brighter or darker, or covered with noise.

Distances are between images that were smoothed by 3x3 pixels and scaled to mean 0 and standard deviation 1, which
removes noise, brightness and contrast, and makes a blurred copy like its original. Of each sample's nearest training
images by this distance the best is found over small shifts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.evaluation.estimate import Estimate, proportion
from fromnoise.evaluation.metrics.nearest import COPY_RATIO, NearestNeighbours

ALIGNED = "aligned pixels"
"""Name of the search."""
SHIFT = 1
"""Largest shift that is tried, in pixels of an image of at most 32 pixels; in proportion for larger ones."""
_SIDE = 32  # of the images that are compared
_SMOOTHED = 16  # images of a smaller side are not smoothed
_CANDIDATES = 32  # training images that are shifted, for each sample
_MIN_STD = 2.0  # of 255, so that a uniform image is not scaled to noise


@dataclass(frozen=True)
class AlignedNeighbours:
    """The nearest training image of each sample after alignment.

    Attributes:
        indices: of the training images, (Q, 1).
        distances: to them, root mean square over the pixels, (Q, 1).
        distance_ratios: of these to the mean distance of the other candidates, aligned too, (Q,).
    """

    indices: Tensor
    distances: Tensor
    distance_ratios: Tensor

    @property
    def copy_rate(self) -> Estimate:
        """Fraction of the samples that are near copies."""
        return proportion(self.distance_ratios < COPY_RATIO)

    @property
    def mean_distance(self) -> Estimate:
        """Mean distance to the nearest training image."""
        return Estimate.mean_of(self.distances[:, 0])


@final
class AlignedSearch:
    """The search for some samples; the training images come in batches and are not kept."""

    def __init__(self, images: Tensor, k: int) -> None:
        """Start with an empty reference.

        Args:
            images: samples, uint8 (Q, C, H, W).
            k: largest number of candidates.
        """
        self._images = smoothed(images)
        self._search = NearestNeighbours(_descriptors(self._images), max(2, min(k, _CANDIDATES)))

    def add_reference(self, images: Tensor, first: int) -> None:
        """Search a batch of training images, uint8 (B, C, H, W), the first of which has the index ``first``."""
        self._search.add_reference(_descriptors(smoothed(images)), first)

    def result(self, get: Callable[[Tensor], Tensor]) -> AlignedNeighbours:
        """Align the nearest training images.

        Args:
            get: training images by their indices, as of ``smoothed``.
        """
        near = self._search.indices[:, :_CANDIDATES]
        best = torch.full(near.shape, torch.inf, dtype=torch.float64)
        for rows in torch.arange(len(near)).split(128):
            originals = get(near[rows].flatten()).float().unflatten(0, near[rows].shape)
            best[rows] = aligned_distances(self._images[rows], originals)
        found = best.min(1)
        others = near.shape[1] - 1
        scale = (best.sum(1) - found.values) / others if others else best.new_full((len(best),), torch.inf)
        size = self._images[0].numel() ** 0.5
        ratio = torch.where(scale > 0, found.values / scale, torch.where(found.values > 0, torch.inf, 0.0))
        return AlignedNeighbours(near.gather(1, found.indices[:, None]), found.values[:, None] / size, ratio)


def aligned_distances(samples: Tensor, originals: Tensor) -> Tensor:
    """Least distance over shifts of up to ``SHIFT`` pixels, of the pixels that both images have.

    Args:
        samples: (Q, C, H, W).
        originals: (Q, K, C, H, W).

    Returns:
        Euclidean, scaled to as many pixels as the images have, float64 (Q, K).
    """
    height, width = samples.shape[-2:]
    best = torch.full(originals.shape[:2], torch.inf, dtype=torch.float64)
    for down, across in product(range(-SHIFT, SHIFT + 1), repeat=2):
        ours = samples[..., max(down, 0) : height + min(down, 0), max(across, 0) : width + min(across, 0)]
        theirs = originals[..., max(-down, 0) : height + min(-down, 0), max(-across, 0) : width + min(-across, 0)]
        difference = normalize(ours)[:, None] - normalize(theirs)
        mean = difference.flatten(2).square().mean(2)
        best = torch.minimum(best, (mean * samples[0].numel()).sqrt())
    return best


def normalize(images: Tensor) -> Tensor:
    """Images (..., C, H, W) with mean 0 and standard deviation 1 over all their values, float64."""
    flat = images.double().flatten(-3)
    centred = flat - flat.mean(-1, keepdim=True)
    return (centred / centred.square().mean(-1, keepdim=True).sqrt().clamp(min=_MIN_STD)).reshape(images.shape)


def smoothed(images: Tensor) -> Tensor:
    """Images uint8 (B, C, H, W) at 32x32 pixels or less, averaged over 3x3 unless they are small, float32."""
    x = images.float()
    stride = -(-max(x.shape[-2:]) // _SIDE)
    x = F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else x
    if min(x.shape[-2:]) < _SMOOTHED:
        return x
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _descriptors(images: Tensor) -> Tensor:
    """Normalized mean over the channels, (B, H W): what candidates are searched by."""
    return normalize(images.mean(1, keepdim=True)).flatten(1)
