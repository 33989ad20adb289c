"""Spectral clusters: the partition of a graph of nearest neighbours with the least normalized cut that is found.

- ``spectral_embedding``: the leading eigenvectors of the normalized affinity D^-1/2 W D^-1/2 (Ng, Jordan and Weiss
  2002; von Luxburg 2007), those beyond the Q-th times (lambda_k / lambda_Q)^power (as in diffusion maps: Coifman and
  Lafon 2006). There may be more of them than clusters, and every pair of points is joined by a little more (Zhang and
  Rohe 2018), as a few outliers that are joined to each other alone take an eigenvector, but no centroid of k-means.
- ``spectral_partitions``: k-means of its rows, from several initial centroids and for two powers, each result improved
  by moves of single points (``normalized_cut.py``). The one with the least normalized cut is taken, not the one that
  k-means fits best: on features of images the fit of k-means hardly tells good partitions from bad ones.
- ``spectral_clusters``: soft memberships by propagation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fromnoise.clustering.graph import NEIGHBOURS, NeighbourGraph, propagate
from fromnoise.clustering.normalized_cut import NormalizedCut
from fromnoise.utils.kmeans import kmeans

POWERS = (10.0, np.inf)
"""Powers of lambda_k / lambda_Q, the weights of eigenvectors beyond the Q-th; infinite: those are left out."""
_MORE_EIGENVECTORS = 0.5  # beyond Q, as a part of Q
_RESTARTS = 20  # of k-means
_SMALLEST, _SMALLEST_SHARE = 4, 0.5  # members of a cluster: in neighbours, or in even shares if that is fewer
_SOFTNESS = 0.9  # a of the propagation that makes clusters soft


def spectral_embedding(values: np.ndarray, vectors: np.ndarray, clusters: int, power: float) -> Tensor:
    """Leading eigenvectors, those beyond the Q-th times (lambda_k / lambda_Q)^power, rows of length 1, float64 (N, K).

    Args:
        values: eigenvalues in descending order, (k,).
        vectors: eigenvectors, (N, k).
        clusters: number of clusters Q to be found; K is 1.5 Q, at least Q + 2, at most k.
        power: from 0 on.
    """
    used = _eigenvectors(clusters)
    decay = values[:used] / max(values[min(clusters, len(values)) - 1], 1e-12)
    embedding = vectors[:, :used] * decay.clip(0, 1) ** power
    return torch.from_numpy(embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12))


def _eigenvectors(clusters: int) -> int:
    return clusters + max(2, round(_MORE_EIGENVECTORS * clusters))


def spectral_partition(graph: NeighbourGraph, clusters: int, seed: int) -> Tensor:
    """Clusters of a graph's points with the least normalized cut that is found, int64 (N,)."""
    return spectral_partitions(graph, [clusters], seed)[0]


def spectral_partitions(
    graph: NeighbourGraph,
    counts: Sequence[int],
    seed: int,
    restarts: int = _RESTARTS,
    powers: Sequence[float] = POWERS,
) -> Tensor:
    """``spectral_partition`` for several numbers of clusters, from the same eigenvectors, int64 (len(counts), N).

    Args:
        graph: N points.
        counts: numbers of clusters.
        seed: of the Lanczos iteration and of k-means.
        restarts: of k-means, for each power.
        powers: of lambda_k / lambda_Q, the weights of eigenvectors beyond the Q-th.
    """
    values, vectors = graph.leading_eigenvectors(_eigenvectors(max(counts)), seed)
    partitions = []
    for clusters in counts:
        embeddings = [spectral_embedding(values, vectors, clusters, power) for power in powers]
        partitions.append(_least_cut(graph, embeddings, clusters, seed, restarts))
    return torch.stack(partitions)


def _least_cut(graph: NeighbourGraph, embeddings: list[Tensor], clusters: int, seed: int, restarts: int) -> Tensor:
    """K-means of embeddings (N, K) from several initial centroids, each result descended; the one cut least.

    Partitions whose cuts are nearly equal are fitted to the edges of the graph, so twice as many edges tell them apart.
    Groups of a few times the neighbours can be joined to each other alone by chance: partitions with such clusters are
    taken only if there are no others.
    """
    cut, wider = NormalizedCut(graph.affinity, clusters), NormalizedCut(graph.wider, clusters)
    found = [
        cut.descend(kmeans(embedding, clusters, (seed << 8) + restart).labels)
        for embedding in embeddings
        for restart in range(restarts)
    ]
    smallest = min(_SMALLEST * graph.neighbours, _SMALLEST_SHARE * len(graph) / clusters)

    def rank(labels: Tensor) -> tuple[bool, float]:
        return int(torch.bincount(labels, minlength=clusters).min()) < smallest, wider.of(labels)

    return min(found, key=rank)


def spectral_clusters(points: Tensor, clusters: int, seed: int, neighbours: int = NEIGHBOURS) -> Tensor:
    """Responsibilities of clusters of features, float64 (N, Q).

    A point is as much of a cluster as the points around it are: the partition is propagated over the graph.

    Args:
        points: features, float (N, D); see ``prepare_features``.
        clusters: Q, at most N.
        seed: of the Lanczos iteration and of k-means.
        neighbours: of each point in the graph.
    """
    graph = NeighbourGraph.from_points(points, neighbours)
    return soft_clusters(graph, spectral_partition(graph, clusters, seed), clusters)


def soft_clusters(graph: NeighbourGraph, labels: Tensor, clusters: int) -> Tensor:
    """Responsibilities around a partition int64 (N,) of a graph's points, float64 (N, Q)."""
    one_hot = torch.nn.functional.one_hot(labels, clusters).double()
    return propagate(graph, one_hot, _SOFTNESS)
