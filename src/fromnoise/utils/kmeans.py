"""K-means clustering (Lloyd 1982) of tensors, by scikit-learn with k-means++ initialization."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class KMeansResult:
    """A partition of points into clusters.

    Attributes:
        labels: cluster of each point, int64 (N,).
        centroids: mean of each cluster, in the dtype of the points, (K, D).
    """

    labels: Tensor
    centroids: Tensor


def kmeans(points: Tensor, clusters: int, seed: int, restarts: int = 1, iterations: int = 300) -> KMeansResult:
    """Partition points by k-means; with fewer different points than clusters, some clusters are empty.

    Args:
        points: float32 or float64 (N, D), on the CPU.
        clusters: K, at most N.
        seed: seed of the initial centroids; any integer.
        restarts: number of runs from different initial centroids, of which the one with the least inertia is kept.
        iterations: at most, of each run.

    Returns:
        Labels and centroids.

    Raises:
        ValueError: there are fewer points than clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    model = KMeans(clusters, n_init=restarts, max_iter=iterations, random_state=seed % 2**32)  # type: ignore[call-overload]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of copies of a point
        model.fit(points.numpy())
    return KMeansResult(torch.from_numpy(model.labels_).long(), torch.from_numpy(np.asarray(model.cluster_centers_)))
