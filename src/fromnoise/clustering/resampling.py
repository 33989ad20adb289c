"""Clusters that are found in random halves of the features: how far a clustering can be reproduced."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.clustering.graph import NeighbourGraph
from fromnoise.clustering.spectral import spectral_partitions

_RESTARTS = 4  # of k-means
_POWER = 4.0  # small, as an eigenvector too many is to show that it cannot be reproduced
_VOTERS = 5  # nearest neighbours that assign a point of the other half


def half_partitions(points: Tensor, counts: Sequence[int], seed: int, splits: int) -> Tensor:
    """Clusters of all points, found in halves of them, int64 (splits, 2, len(counts), N).

    Each split is random and gives two halves, which are clustered alone (``spectral_partitions``); the points of the
    other half get the cluster of the most of their five nearest neighbours (Tibshirani and Walther 2005).

    Args:
        points: features, float (N, D).
        counts: numbers of clusters.
        seed: of the splits and of the clusterings.
        splits: number of splits.

    Raises:
        ValueError: a half has fewer points than clusters.
    """
    if len(points) // 2 < max(counts):
        raise ValueError(f"half of {len(points)} points cannot make {max(counts)} clusters")
    out = torch.empty(splits, 2, len(counts), len(points), dtype=torch.int64)
    for split in range(splits):
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed + split))
        parts = order[: len(points) // 2], order[len(points) // 2 :]
        for side, (half, rest) in enumerate((parts, parts[::-1])):
            labels = spectral_partitions(NeighbourGraph.from_points(points[half]), counts, seed, _RESTARTS, [_POWER])
            out[split, side][:, half] = labels
            out[split, side][:, rest] = labels[:, _nearest(points[half], points[rest])].mode(2).values
    return out


def _nearest(points: Tensor, others: Tensor) -> Tensor:
    """The nearest ``points`` of each of ``others``, (M, 5)."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(_VOTERS, len(points)), algorithm="brute").fit(points.float().numpy())
    return torch.from_numpy(search.kneighbors(others.float().numpy(), return_distance=False)).long()
