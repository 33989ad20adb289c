"""Spectral clusters: partitions of a graph of nearest neighbours by its eigenvectors and its normalized cut.

- ``spectral_embedding``: the leading eigenvectors of the normalized affinity D^-1/2 W D^-1/2 (Ng, Jordan and Weiss
  2002; von Luxburg 2007), those beyond the Q-th times (lambda_k / lambda_Q)^power (as in diffusion maps: Coifman and
  Lafon 2006). There may be more of them than clusters, and every pair of points is joined by a little more (Zhang and
  Rohe 2018), as a few outliers that are joined to each other alone take an eigenvector, but no centroid of k-means.
- ``spectral_partitions``: k-means of its rows. Of many points, several results are improved by moves of single points
  (``normalized_cut.py``), and the one with the least normalized cut is taken: on features of images the fit of k-means
  hardly tells good partitions from bad ones. Of few points, whose cuts have large errors, the best fit is taken.
- ``spectral_clusters``: soft memberships by propagation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fromnoise.clustering.graph import NEIGHBOURS, NeighbourGraph, label_seeds, propagate
from fromnoise.clustering.normalized_cut import NormalizedCut
from fromnoise.utils.kmeans import kmeans

POWERS = (10.0, np.inf)
"""Powers of lambda_k / lambda_Q, the weights of eigenvectors beyond the Q-th; infinite: those are left out."""
_MORE_EIGENVECTORS = 0.5  # beyond Q, as a part of Q
_MANY = 4000  # points, from which on partitions are compared by their cuts
_RESTARTS, _FIT_RESTARTS = 20, 10  # of k-means at most, for the least cut and for the best fit
_CORE, _MARGIN = 0.7, 0.2  # cosine with the nearest centroid, or lead over the second, at which points stay there
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


def spectral_partition(graph: NeighbourGraph, clusters: int, seed: int, by_cut: bool | None = None) -> Tensor:
    """Clusters of a graph's points, int64 (N,); arguments as in ``spectral_partitions``."""
    return spectral_partitions(graph, [clusters], seed, by_cut=by_cut)[0]


def spectral_partitions(
    graph: NeighbourGraph,
    counts: Sequence[int],
    seed: int,
    restarts: int = _RESTARTS,
    powers: Sequence[float] = POWERS,
    by_cut: bool | None = None,
) -> Tensor:
    """Clusters of a graph's points for several numbers of clusters, from the same eigenvectors, int64 (len(counts), N).

    Args:
        graph: N points.
        counts: numbers of clusters.
        seed: of the Lanczos iteration and of k-means.
        restarts: of k-means, for each power; at most 10 for the best fit.
        powers: of lambda_k / lambda_Q, the weights of eigenvectors beyond the Q-th; the best fit takes the first.
        by_cut: take the partition with the least normalized cut that is found, not the best fit of k-means; None: of
            4,000 points or more. Which one finds the classes of images was measured with up to 1,707 and with 10,000.
    """
    values, vectors = graph.leading_eigenvectors(_eigenvectors(max(counts)), seed)
    partitions = []
    for clusters in counts:
        embeddings = [spectral_embedding(values, vectors, clusters, power) for power in powers]
        if len(graph) >= _MANY if by_cut is None else by_cut:
            partitions.append(_least_cut(graph, embeddings, clusters, seed, restarts))
        else:
            partitions.append(_best_fit(graph, embeddings[0], clusters, seed, min(restarts, _FIT_RESTARTS)))
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


def _best_fit(graph: NeighbourGraph, embedding: Tensor, clusters: int, seed: int, restarts: int) -> Tensor:
    """K-means of an embedding (N, K), and over the graph for points near no centroid, int64 (N,).

    A group of points that hardly any edge joins to the others has an eigenvector of its own, and if it is too small for
    a centroid, the nearest one is that of an arbitrary cluster. Points whose cosine with the nearest centroid is below
    0.7, and less than 0.2 larger than that with the second, therefore get the cluster that reaches them over the graph
    (``propagate``), each cluster with the same total weight.
    """
    labels = kmeans(embedding, clusters, seed, restarts).labels
    centroids = torch.zeros(clusters, embedding.shape[1], dtype=torch.float64).index_add_(0, labels, embedding)
    cosines = torch.nn.functional.normalize(embedding, dim=1) @ torch.nn.functional.normalize(centroids, dim=1).T
    nearest, second = cosines.topk(2, 1).values.T
    core = (nearest >= _CORE) | (nearest - second >= _MARGIN)
    if bool(core.all()):
        return labels
    reached = propagate(graph, label_seeds(torch.where(core, labels, -1), clusters)).argmax(1)
    return torch.where(core, labels, reached)


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
