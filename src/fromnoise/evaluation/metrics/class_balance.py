"""Class balance: how often samples fall into each class or cluster, beside real images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fromnoise.evaluation.estimate import proportion
from fromnoise.evaluation.features.extractor import FeatureBatch, FeatureExtractor
from fromnoise.utils.kmeans import kmeans

_SIGNIFICANT = 4.0  # standard errors
_FACTOR = 2.0  # by which a share must differ from the real one to be reported


class Partition(ABC):
    """Groups of images: classes or clusters.

    Attributes:
        names: of the groups.
        kind: "class" or "cluster".
    """

    names: tuple[str, ...]
    kind: str

    @abstractmethod
    def assign(self, batch: FeatureBatch) -> Tensor:
        """Group of each image, int64 (N,)."""


@final
class PredictedClasses(Partition):
    """Classes as a classifier predicts them."""

    kind = "class"

    def __init__(self, names: tuple[str, ...]) -> None:
        """Take the names of the classes."""
        self.names = names

    def assign(self, batch: FeatureBatch) -> Tensor:
        """See ``Partition``.

        Raises:
            ValueError: the features have no class probabilities.
        """
        if batch.probabilities is None:
            raise ValueError("these features have no class probabilities")
        return batch.probabilities.argmax(1)


@final
class FeatureClusters(Partition):
    """Clusters of real features by k-means, for images without labels (as in Richardson and Weiss 2018)."""

    kind = "cluster"

    def __init__(self, features: Tensor, count: int | None = None) -> None:
        """Find the clusters.

        Args:
            features: of real images, (N, D).
            count: number of clusters; by default one per 100 images, from 2 to 20.
        """
        count = count or max(2, min(20, len(features) // 100))
        self._centroids = kmeans(features.double(), min(count, len(features)), seed=0).centroids
        self.names = tuple(str(i) for i in range(len(self._centroids)))

    def assign(self, batch: FeatureBatch) -> Tensor:
        """See ``Partition``."""
        return torch.cdist(batch.features.double(), self._centroids).argmin(1)


def partition_of(extractor: FeatureExtractor, real: FeatureBatch) -> Partition:
    """Predicted classes if the extractor is a classifier of the data set, otherwise clusters of the real images."""
    if extractor.class_names is not None:
        return PredictedClasses(extractor.class_names)
    return FeatureClusters(real.features)


@dataclass(frozen=True)
class GroupShare:
    """Share of a class or cluster among the samples.

    Attributes:
        name: of the class or cluster.
        samples: its share of the samples.
        real: its share of the real images.
        error: standard error of the samples' share over sets of samples.
        null_error: standard error of the difference if both shares were equal and both sets i.i.d.
    """

    name: str
    samples: float
    real: float
    error: float
    null_error: float

    @property
    def status(self) -> str:
        """One of "missing", "rare" and "frequent"; "" if the difference is not significant or below a factor of two."""
        z = (self.samples - self.real) / self.null_error if self.null_error else 0.0
        if abs(z) < _SIGNIFICANT:
            return ""
        if self.samples * _FACTOR < self.real:
            return "rare" if self.samples else "missing"
        return "frequent" if self.samples > self.real * _FACTOR else ""


def group_shares(
    samples: Tensor, real: Tensor, names: tuple[str, ...], strata: Tensor | None = None
) -> list[GroupShare]:
    """Share of each group among samples and real images.

    Args:
        samples: group of each sample, int64 (N,).
        real: group of each real image, int64 (M,).
        names: of the groups.
        strata: of the samples, as of ``standard_error``.
    """
    expected = (torch.bincount(real, minlength=len(names)).double() / len(real)).tolist()
    n = 1 / (1 / len(samples) + 1 / len(real))
    out = []
    for group, (name, share) in enumerate(zip(names, expected, strict=True)):
        found = proportion(samples == group, strata)
        out.append(GroupShare(name, found.value, share, found.error, math.sqrt(share * (1 - share) / n)))
    return out
