"""Feature extractors: maps from images to vectors, in which images are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class FeatureBatch:
    """Features of some images.

    Attributes:
        features: float64 (N, D).
        probabilities: class probabilities, float64 (N, K); None if the extractor is no classifier.
    """

    features: Tensor
    probabilities: Tensor | None = None


class FeatureExtractor(ABC):
    """A map from images to vectors that does not depend on the other images of a batch.

    Attributes:
        name: of the feature space, in results.
        description: one phrase, for reports.
        dim: D, the number of features.
        class_names: of the data set, if the extractor classifies its images; else None.
    """

    name: str
    description: str
    dim: int
    class_names: tuple[str, ...] | None = None

    @abstractmethod
    def extract(self, images: Tensor) -> FeatureBatch:
        """Features of one batch, and class probabilities if there are any.

        Args:
            images: uint8 (B, C, H, W).
        """

    def extract_all(self, images: Tensor, batch: int = 256) -> FeatureBatch:
        """Features of many images, batch by batch.

        Args:
            images: uint8 (N, C, H, W).
            batch: images per batch.
        """
        parts = [self.extract(part) for part in images.split(batch)]
        probabilities = [p.probabilities for p in parts if p.probabilities is not None]
        return FeatureBatch(torch.cat([p.features for p in parts]), torch.cat(probabilities) if probabilities else None)

    @final
    def features(self, images: Tensor) -> Tensor:
        """Features, float64 (N, D), of uint8 (N, C, H, W)."""
        return self.extract_all(images).features

    @final
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities, float64 (N, K), of uint8 (N, C, H, W).

        Raises:
            UserError: the extractor is no classifier.
        """
        probabilities = self.extract_all(images).probabilities
        if probabilities is None:
            raise UserError(f"{self.name} features have no classes: use --features classifier")
        return probabilities
