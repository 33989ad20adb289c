"""How well clusters agree with labels that they were not told."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Agreement of clusters with classes.

    Attributes:
        accuracy: share of images whose class is the one matched with their cluster, one cluster a class, matched for
            the best (Kuhn 1955, the Hungarian method).
        nmi: mutual information over the mean of both entropies.
        ari: Rand index adjusted for chance (Hubert and Arabie 1985).
    """

    accuracy: float
    nmi: float
    ari: float

    @staticmethod
    def of(clusters: Tensor, labels: Tensor) -> Scores:
        """Compare clusters (N,) with classes (N,)."""
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

        given, true = clusters.numpy(), labels.numpy()
        right = float((match(clusters, labels)[clusters] == labels).double().mean())
        return Scores(right, float(normalized_mutual_info_score(true, given)), float(adjusted_rand_score(true, given)))


def table(clusters: Tensor, labels: Tensor) -> Tensor:
    """How many images of each cluster are of each class, int64 (Q, K)."""
    rows, columns = int(clusters.max()) + 1, int(labels.max()) + 1
    return torch.bincount(clusters * columns + labels, minlength=rows * columns).reshape(rows, columns)


def match(clusters: Tensor, labels: Tensor) -> Tensor:
    """The class that each cluster is matched with, int64 (Q,); -1 where there are more clusters than classes."""
    from scipy.optimize import linear_sum_assignment

    counts = table(clusters, labels)
    rows, columns = linear_sum_assignment(-counts.numpy())
    found = torch.full((len(counts),), -1, dtype=torch.int64)
    found[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return found


def majority(clusters: Tensor, labels: Tensor) -> Tensor:
    """The most frequent class of each cluster, int64 (Q,)."""
    return table(clusters, labels).argmax(1)
