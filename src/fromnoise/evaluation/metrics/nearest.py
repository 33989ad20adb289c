"""Near copies: nearest neighbours relative to the scale of their neighbourhood.

A sample is a near copy if its nearest training image is less than half as far away as the next ones are on average
(after Carlini et al. 2023, "Extracting training data from diffusion models", section 5.1, who take 50 neighbours and
1/2). The ratio has no unit, so smooth images, which are near to many others, are not flagged for that alone.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from fromnoise.evaluation.estimate import Estimate, proportion

NEIGHBOURS = 50
"""Neighbours that set the scale."""
COPY_RATIO = 0.5
"""Ratio of distances below which a sample is a near copy."""


@final
class NearestNeighbours:
    """The nearest reference vectors of some queries; the reference comes in blocks and is not kept."""

    def __init__(self, queries: Tensor, k: int = NEIGHBOURS + 1) -> None:
        """Start with an empty reference.

        Args:
            queries: (Q, D).
            k: number of neighbours to find.
        """
        self._queries, self._k = queries.double(), k
        self.distances = torch.empty(len(queries), 0, dtype=torch.float64)
        """Ascending distances, (Q, k), or fewer columns if the reference is smaller."""
        self.indices = torch.empty(len(queries), 0, dtype=torch.int64)
        """Indices of the neighbours in the reference, of the same shape."""

    def add_reference(self, block: Tensor, first: int) -> None:
        """Search a further block of the reference.

        Args:
            block: (B, D).
            first: index of its first vector.
        """
        self._merge(_distances(self._queries, block.double()), first)

    def search_within(self) -> NearestNeighbours:
        """Search among the queries themselves, each without itself."""
        for first in range(0, len(self._queries), 1024):
            distances = _distances(self._queries, self._queries[first : first + 1024])
            rows = torch.arange(distances.shape[1])
            distances[first + rows, rows] = math.inf
            self._merge(distances, first)
        return self

    def drop_nearest(self) -> None:
        """Drop each query's nearest neighbour, which is the query itself if the reference holds the queries."""
        self.distances, self.indices = self.distances[:, 1:], self.indices[:, 1:]

    def _merge(self, distances: Tensor, first: int) -> None:
        numbers = torch.arange(first, first + distances.shape[1]).expand_as(distances)
        near = distances.topk(min(self._k, distances.shape[1]), largest=False, sorted=False)
        merged = torch.cat([self.distances, near.values], 1)
        indices = torch.cat([self.indices, numbers.gather(1, near.indices)], 1)
        self.distances, columns = merged.topk(min(self._k, merged.shape[1]), largest=False)
        self.indices = indices.gather(1, columns)

    @property
    def distance_ratios(self) -> Tensor:
        """Distance to the nearest over the mean distance to the next ones, (Q,); 0 for identical vectors.

        Infinity if there is no neighbour at all, as in a data set of one image.
        """
        if not self.distances.shape[1]:
            return torch.full((len(self._queries),), math.inf, dtype=torch.float64)
        finite = self.distances.masked_fill(self.distances.isinf(), math.nan)
        nearest, scale = finite[:, 0], finite[:, 1:].nanmean(1)
        return torch.where(nearest <= 1e-6 * scale.nan_to_num(1.0).clamp(min=1e-6), 0.0, nearest / scale)

    @property
    def copy_rate(self) -> Estimate:
        """Fraction of the queries that are near copies."""
        return proportion(self.distance_ratios < COPY_RATIO)

    @property
    def mean_distance(self) -> Estimate:
        """Mean distance to the nearest neighbour."""
        return Estimate.mean_of(self.distances[:, 0])


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances; those of identical vectors, which rounding makes positive, are set to 0."""
    squares = torch.addmm(x.square().sum(1, keepdim=True), x, y.T, alpha=-2) + y.square().sum(1)
    scale = x.square().sum(1, keepdim=True) + y.square().sum(1)
    return torch.where(squares <= 1e-12 * scale, 0.0, squares).sqrt()
