"""One pass over a set of images: sums over all of them, and the first of their feature vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Self, TypeVar

import torch
from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.evaluation.colour_stats import colour_statistics
from fromnoise.evaluation.features.extractor import FeatureExtractor
from fromnoise.evaluation.sources import ImageSource, SamplingCost
from fromnoise.evaluation.statistics import Moments, PredictionSums

PARTS = 20
"""Parts of the samples for the jackknife."""
MAX_VECTORS = 10_000
"""Number of feature vectors that are kept, for metrics of pairs."""
MAX_IMAGES = 2_000
"""Number of images that are kept, for the search of near copies."""

T = TypeVar("T")
Sums = TypeVar("Sums", Moments, PredictionSums)
OnProgress = Callable[[int], object]
"""Called with the number of further images done."""
OnBatch = Callable[[Tensor, Tensor, int], object]
"""Called with a batch of images, its features, and the index of its first image."""


class SharedResults:
    """Keeps results that several metrics use, so that each is computed once."""

    def shared(self, compute: Callable[[Self], T]) -> T:
        """The result of ``compute(self)``, computed once."""
        results = self.__dict__.setdefault("_shared", {})
        if compute not in results:
            results[compute] = compute(self)
        return results[compute]

    def clear_shared(self) -> None:
        """Free the memory of the results."""
        self.__dict__.pop("_shared", None)


@dataclass(frozen=True)
class FeatureStats(SharedResults):
    """Statistics of a set of images in one feature space.

    Attributes:
        name: of the set.
        n: number of images.
        moment_parts: moments of the features, of each of ``PARTS`` consecutive parts.
        prediction_parts: sums over class probabilities, of the same parts; empty if the features have no classes.
        features: of the first ``MAX_VECTORS`` images, float32 (N, D).
        probabilities: class probabilities of the same images, float32 (N, K), or None.
        colour: moments of ``colour_statistics``.
        images: the first ``MAX_IMAGES``, uint8 (N, C, H, W).
        cost: of sampling; None for images that were not sampled here.
        sampling: how a model sampled them; None for images that were not sampled here.
        strata: stratum of each vector of ``features``, int64 (N,); None for i.i.d. samples.
    """

    name: str
    n: int
    moment_parts: list[Moments]
    prediction_parts: list[PredictionSums]
    features: Tensor
    probabilities: Tensor | None
    colour: Moments
    images: Tensor
    cost: SamplingCost | None = None
    sampling: SamplingConfig | None = None
    strata: Tensor | None = None

    @property
    def moments(self) -> Moments:
        """Moments of all features."""
        return reduce(Moments.__add__, self.moment_parts)


def float64_features(stats: FeatureStats) -> Tensor:
    """The features in double precision, for ``FeatureStats.shared``."""
    return stats.features.double()


def gather_stats(
    source: ImageSource,
    extractor: FeatureExtractor,
    on_progress: OnProgress = lambda count: None,
    on_batch: OnBatch = lambda images, features, first: None,
) -> FeatureStats:
    """Read all images of a source once and gather their statistics."""
    n, done = source.count, 0
    parts = max(1, min(PARTS, n // 2))
    moments: dict[int, Moments] = {}
    predictions: dict[int, PredictionSums] = {}
    colour: Moments | None = None
    kept: dict[str, list[Tensor]] = {"features": [], "probabilities": [], "images": []}
    for images in source.batches():
        images = images.cpu()
        batch = extractor.extract_all(images)
        for part, rows in _parts_of_batch(done, len(images), n, parts):
            moments[part] = _add(moments.get(part), Moments.of(batch.features[rows]))
            if batch.probabilities is not None:
                predictions[part] = _add(predictions.get(part), PredictionSums.of(batch.probabilities[rows]))
        colour = _add(colour, Moments.of(colour_statistics(images)))
        kept["features"].append(batch.features[: max(0, MAX_VECTORS - done)].float())
        if batch.probabilities is not None:
            kept["probabilities"].append(batch.probabilities[: max(0, MAX_VECTORS - done)].float())
        kept["images"].append(images[: max(0, MAX_IMAGES - done)])
        on_batch(images, batch.features, done)
        done += len(images)
        on_progress(len(images))
    assert colour is not None  # a source has images
    joined = {key: torch.cat(values) for key, values in kept.items() if values}
    return FeatureStats(
        source.name,
        done,
        list(moments.values()),
        list(predictions.values()),
        joined["features"],
        joined.get("probabilities"),
        colour,
        joined["images"],
        source.cost,
        source.sampling,
        source.strata[:MAX_VECTORS] if source.strata is not None else None,
    )


def _add(a: Sums | None, b: Sums) -> Sums:
    return b if a is None else a + b


def _parts_of_batch(first: int, count: int, n: int, parts: int) -> Iterator[tuple[int, slice]]:
    """Which rows of the batch ``first .. first + count - 1`` lie in which of ``parts`` equal parts of n images."""
    ends = [n * (p + 1) // parts for p in range(parts)]
    for part, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        rows = slice(max(begin, first) - first, min(end, first + count) - first)
        if rows.start < rows.stop:
            yield part, rows
