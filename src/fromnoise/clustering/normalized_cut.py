"""The normalized cut of a partition of a graph, and its descent by moves of single points.

    Ncut = sum_c cut(c) / vol(c) = Q - sum_c within(c) / vol(c)

with within(c) the affinity inside the cluster c, vol(c) the sum of its points' degrees and cut(c) their difference (Shi
and Malik 2000; Yu and Shi 2003). Every pair of points is joined by a little more, as in
``NeighbourGraph.leading_eigenvectors``. K-means of the eigenvectors is a relaxation of this problem; here it is the
objective itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.clustering.graph import REGULARIZATION

_SWEEPS = 100  # at most
_LEAST_GAIN = 1e-9


@dataclass(frozen=True)
class NormalizedCut:
    """The normalized cut of partitions of a graph.

    Attributes:
        affinity: of the graph, symmetric, sparse float64 (N, N).
        clusters: Q; labels are below it. An empty cluster has the cut 1, as has one without inner edges.
    """

    affinity: Any
    clusters: int

    @cached_property
    def _added(self) -> float:
        """Affinity that each point has to all points together."""
        return REGULARIZATION * float(self.affinity.sum(1).mean())

    @cached_property
    def _degree(self) -> np.ndarray:
        return np.asarray(self.affinity.sum(1)).ravel() + self._added

    def of(self, labels: Tensor) -> float:
        """The normalized cut of a partition int64 (N,), in [0, Q]."""
        return self._of(labels.numpy())

    def _of(self, labels: np.ndarray) -> float:
        _, within, volume = self._links(labels)
        return self.clusters - float((within / volume).sum())

    def _links(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Affinity of each point to each cluster (N, Q), and within(c) and vol(c), (Q,)."""
        one_hot = np.eye(self.clusters)[labels]
        links = self.affinity @ one_hot + self._added * one_hot.mean(0)
        return links, np.einsum("nc,nc->c", one_hot, links), np.maximum(self._degree @ one_hot, 1e-300)

    def descend(self, labels: Tensor) -> Tensor:
        """Move points to other clusters as long as the cut falls (Dhillon, Guan and Kulis 2007), int64 (N,).

        In each sweep the gain of every point's best move is computed as if it were the only one, and the moves with the
        largest gains are made: all of them, or half as many until the cut falls.

        Args:
            labels: a partition, int64 (N,).
        """
        current, best = labels.numpy(), self.of(labels)
        for _ in range(_SWEEPS):
            gain, target = self._best_moves(current)
            moving = np.flatnonzero(gain > _LEAST_GAIN)
            moving = moving[np.argsort(-gain[moving], kind="stable")]
            while len(moving):
                moved = current.copy()
                moved[moving] = target[moving]
                value = self._of(moved)
                if value < best - _LEAST_GAIN:
                    current, best = moved, value
                    break
                moving = moving[: len(moving) // 2]
            if not len(moving):
                break
        return torch.from_numpy(current)

    def _best_moves(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How much the cut falls if one point moves, and where to, (N,) each."""
        links, within, volume = self._links(labels)
        points, itself = np.arange(len(labels)), self._added / len(labels)
        left = np.maximum(volume[labels] - self._degree, 1e-9 * volume[labels])
        rest = np.maximum(within[labels] - 2 * links[points, labels] + itself, 0)
        loss = within[labels] / volume[labels] - rest / left
        joined = (within + 2 * links + itself) / (volume + self._degree[:, None])
        gain = joined - within / volume - loss[:, None]
        gain[points, labels] = 0
        return gain.max(1), gain.argmax(1)
