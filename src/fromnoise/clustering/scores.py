"""Agreement of clusters with class labels that the clustering did not use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClusterScores:
    """Agreement of clusters with classes.

    Attributes:
        accuracy: fraction of images whose class is the one matched with their cluster, under the best one-to-one
            matching (Kuhn 1955, the Hungarian method).
        nmi: normalized mutual information: mutual information divided by the mean of both entropies.
        ari: adjusted Rand index (Hubert and Arabie 1985).
    """

    accuracy: float
    nmi: float
    ari: float

    @staticmethod
    def from_labels(clusters: Tensor, labels: Tensor) -> ClusterScores:
        """Compare clusters, int64 (N,), with class labels, int64 (N,)."""
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

        c, y = clusters.numpy(), labels.numpy()
        accuracy = float((match_classes(clusters, labels)[clusters] == labels).double().mean())
        return ClusterScores(accuracy, float(normalized_mutual_info_score(y, c)), float(adjusted_rand_score(y, c)))


def contingency_table(clusters: Tensor, labels: Tensor) -> Tensor:
    """The number of images in each cluster and class, int64 (Q, K)."""
    rows, columns = int(clusters.max()) + 1, int(labels.max()) + 1
    return torch.bincount(clusters * columns + labels, minlength=rows * columns).reshape(rows, columns)


def match_classes(clusters: Tensor, labels: Tensor) -> Tensor:
    """The class matched with each cluster, int64 (Q,); -1 for clusters without one if they outnumber the classes."""
    from scipy.optimize import linear_sum_assignment

    counts = contingency_table(clusters, labels)
    rows, columns = linear_sum_assignment(-counts.numpy())
    matched = torch.full((len(counts),), -1, dtype=torch.int64)
    matched[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return matched


def majority_classes(clusters: Tensor, labels: Tensor) -> Tensor:
    """The most frequent class of each cluster, int64 (Q,)."""
    return contingency_table(clusters, labels).argmax(1)
