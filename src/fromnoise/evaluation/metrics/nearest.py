"""Whether samples copy the training set, or one another: nearest neighbours against the neighbourhood's own scale.

A sample is called a copy if its nearest training image is less than half as far as the next ones are on average
(after Carlini et al. 2023, "Extracting training data from diffusion models", section 5.1, who take 50 and 1/2). The
ratio knows no unit, so that smooth images, which lie near to everything, are not called copies.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from fromnoise.evaluation.metrics.frechet import Estimate, share

NEIGHBOURS = 50  # that give the scale
RATIO = 0.5  # below it a sample is a copy


@final
class Nearest:
    """The nearest reference vectors of some queries; the reference comes in blocks and is not kept."""

    def __init__(self, queries: Tensor, k: int = NEIGHBOURS + 1) -> None:
        """Begin with nothing found.

        Args:
            queries: (Q, D).
            k: how many to find of each.
        """
        self._queries, self._k = queries.double(), k
        self.distances = torch.empty(len(queries), 0, dtype=torch.float64)
        """Ascending, (Q, k), less where fewer vectors came."""
        self.indices = torch.empty(len(queries), 0, dtype=torch.int64)
        """Which vectors these are."""

    def update(self, block: Tensor, first: int) -> None:
        """Look through more of the reference.

        Args:
            block: (B, D).
            first: number of its first vector.
        """
        self._merge(_apart(self._queries, block.double()), first)

    def among_themselves(self) -> Nearest:
        """Take the queries for the reference, each without itself."""
        for first in range(0, len(self._queries), 1024):
            apart = _apart(self._queries, self._queries[first : first + 1024])
            rows = torch.arange(apart.shape[1])
            apart[first + rows, rows] = math.inf
            self._merge(apart, first)
        return self

    def forget_nearest(self) -> None:
        """Leave out the nearest of each: where the queries are in the reference, it is the query itself."""
        self.distances, self.indices = self.distances[:, 1:], self.indices[:, 1:]

    def _merge(self, apart: Tensor, first: int) -> None:
        numbers = torch.arange(first, first + apart.shape[1]).expand_as(apart)
        near = apart.topk(min(self._k, apart.shape[1]), largest=False, sorted=False)
        distances = torch.cat([self.distances, near.values], 1)
        indices = torch.cat([self.indices, numbers.gather(1, near.indices)], 1)
        self.distances, places = distances.topk(min(self._k, distances.shape[1]), largest=False)
        self.indices = indices.gather(1, places)

    @property
    def ratios(self) -> Tensor:
        """Distance to the nearest over the mean distance to the next ones, (Q,); 0 for what is identical."""
        finite = self.distances.masked_fill(self.distances.isinf(), math.nan)
        nearest, scale = finite[:, 0], finite[:, 1:].nanmean(1)
        return torch.where(nearest <= 1e-6 * scale.nan_to_num(1.0).clamp(min=1e-6), 0.0, nearest / scale)

    @property
    def copies(self) -> Estimate:
        """Share of queries that are copies."""
        return share(self.ratios < RATIO)


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances; identical vectors are at 0 but for rounding, which is cut off."""
    squares = torch.addmm(x.square().sum(1, keepdim=True), x, y.T, alpha=-2) + y.square().sum(1)
    scale = x.square().sum(1, keepdim=True) + y.square().sum(1)
    return torch.where(squares <= 1e-12 * scale, 0.0, squares).sqrt()
