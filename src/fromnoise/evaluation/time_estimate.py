"""The expected duration of an evaluation, by a trial on a few images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from fromnoise.data import Images
from fromnoise.evaluation.feature_stats import MAX_IMAGES, MAX_VECTORS
from fromnoise.evaluation.features.extractor import FeatureExtractor
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.metrics import all_metrics
from fromnoise.evaluation.metrics.kid import kernel_distance
from fromnoise.evaluation.metrics.nearest import NearestNeighbours
from fromnoise.evaluation.sources import ImageSource, RealImages

_TRIAL_IMAGES = 256
_TRIAL_VECTORS = 512


def image_count(sources: Sequence[ImageSource], reference: RealImages, held_out: Images) -> int:
    """Number of images that an evaluation reads: of the sources, of held-out images, and of the reference."""
    counts = [s.count for s in sources]
    return sum(counts) + sum(min(n, len(held_out)) for n in set(counts)) + reference.count


def estimated_seconds(
    sources: Sequence[ImageSource], reference: RealImages, held_out: Images, extractor: FeatureExtractor
) -> float:
    """Estimated duration of features, metrics and nearest-neighbour searches, without the sampling.

    Args:
        sources: of the samples.
        reference: the training images.
        held_out: real images that are evaluated as the samples are.
        extractor: of the features.
    """
    images = held_out.get(torch.arange(_TRIAL_IMAGES) % len(held_out))
    extractor.extract(images[:2])  # the first call may initialize something
    per_image = _duration(lambda: extractor.extract(images)) / _TRIAL_IMAGES
    vectors = torch.rand(_TRIAL_VECTORS, extractor.dim, dtype=torch.float64)
    per_pair = _duration(lambda: kernel_distance(vectors, vectors)) / (3 * _TRIAL_VECTORS**2)
    pixels = PixelFeatures(reference.shape).features(images)
    search = NearestNeighbours(pixels)
    per_search = _duration(lambda: search.add_reference(pixels, 0)) / len(pixels) ** 2

    counts = [s.count for s in sources]
    real = min(reference.count, MAX_VECTORS)
    kept = [min(n, MAX_VECTORS) for n in counts + [min(n, len(held_out)) for n in set(counts)]]
    passes = sum(metric.passes for metric in all_metrics())
    pairs = passes * (real**2 + sum(1.5 * n**2 + n * real for n in kept))
    searches = 3 if isinstance(extractor, PixelFeatures) else 4
    searched = searches * sum(min(n, MAX_IMAGES) * reference.count for n in kept)
    return image_count(sources, reference, held_out) * per_image + pairs * per_pair + searched * per_search


def _duration(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
