"""The evaluation of sources of images: one pass over the images of each, then every metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.data import Images, to_float
from fromnoise.evaluation.aligned_copies import ALIGNED, AlignedNeighbours, AlignedSearch, smoothed
from fromnoise.evaluation.colour_stats import ColourShift, colour_shifts
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.feature_stats import MAX_IMAGES, FeatureStats, OnBatch, gather_stats
from fromnoise.evaluation.features.extractor import FeatureBatch, FeatureExtractor
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.metrics import all_metrics
from fromnoise.evaluation.metrics.class_balance import GroupShare, group_shares, partition_of
from fromnoise.evaluation.metrics.metric import SampleComparison
from fromnoise.evaluation.metrics.nearest import NEIGHBOURS, NearestNeighbours
from fromnoise.evaluation.sources import ImageSource, RealImages
from fromnoise.model import AutoencoderModel, Model
from fromnoise.utils.errors import UserError

MIN_IMAGES = 10
"""Images of a source that an evaluation needs."""
_MAX_KEPT_BYTES = 2**29  # of small training images; those of a larger set are read again where they are needed
MIRRORED = "mirrored pixels"
"""The space in which a sample is mirrored before its nearest training images are searched."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a source against the reference.

    Attributes:
        stats: of the source.
        metrics: estimates of the registered metrics by their keys.
        nearest: nearest training images of the first samples, by the space of the search.
        near_duplicates: nearest other samples by pixels, among equally many images of each source.
        shares: of the classes or clusters.
        colour_shifts: of brightness, contrast and colour.
    """

    stats: FeatureStats
    metrics: dict[str, Estimate]
    nearest: dict[str, NearestNeighbours | AlignedNeighbours]
    near_duplicates: NearestNeighbours
    shares: list[GroupShare]
    colour_shifts: list[ColourShift]

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.stats.name


@dataclass(frozen=True)
class Measurement:
    """Evaluations of several sources in one feature space.

    Attributes:
        features: name of the feature space.
        reference: statistics of the training images.
        group_kind: of what ``Evaluation.shares`` are: class or cluster.
        evaluations: one per source.
        real_vs_real: for each source the evaluation of as many held-out real images, or of all if there are fewer.
    """

    features: str
    reference: FeatureStats
    group_kind: str
    evaluations: list[Evaluation]
    real_vs_real: list[Evaluation]


def measure(
    sources: Sequence[ImageSource],
    reference: RealImages,
    held_out: Images,
    extractor: FeatureExtractor,
    on_progress: Callable[[str, int], object] = lambda name, count: None,
) -> Measurement:
    """Evaluate sources, and held-out real images in the same way.

    The reference is read once, after the samples, so that it need not be kept in memory.

    Args:
        sources: of the samples.
        reference: the training images.
        held_out: real images that the models were not trained on.
        extractor: of the features in which distances are measured.
        on_progress: called with the name of a source and the number of further images done.

    Raises:
        UserError: a source or the held-out part has fewer than ten images.
    """
    for name, count in [(s.name, s.count) for s in sources] + [("the held-out part", len(held_out))]:
        if count < MIN_IMAGES:
            raise UserError(f"{name} has {count} images: an evaluation needs at least {MIN_IMAGES}")

    def gather(source: ImageSource, on_batch: OnBatch = lambda images, features, first: None) -> FeatureStats:
        return gather_stats(source, extractor, lambda count: on_progress(source.name, count), on_batch)

    samples = [gather(s) for s in sources]
    gathered: dict[object, FeatureStats] = {}
    real = []
    for source, s in zip(sources, samples, strict=True):
        key = s.n if source.strata is None else (id(source.model), s.n)
        if key not in gathered:
            gathered[key] = gather(_real_sample(source, held_out, s.n))
        real.append(gathered[key])
    stats = [*samples, *gathered.values()]
    search = _NearestSearch(stats, extractor, PixelFeatures(reference.shape), reference.count)
    reference_stats = gather(reference, search.add_reference)
    reference_batch = FeatureBatch(reference_stats.features, reference_stats.probabilities)
    partition = partition_of(extractor, reference_batch)
    metrics = all_metrics()
    evaluations: dict[int, Evaluation] = {}
    for i, s in enumerate(stats):
        comparison = SampleComparison(s, reference_stats)
        estimates = {metric.key: metric.estimate(comparison) for metric in metrics}
        groups = partition.assign(FeatureBatch(s.features, s.probabilities))
        evaluations[id(s)] = Evaluation(
            s,
            {key: estimate for key, estimate in estimates.items() if estimate is not None},
            search.nearest(i, reference.get),
            search.near_duplicates(i),
            group_shares(groups, partition.assign(reference_batch), partition.names, s.strata),
            colour_shifts(s.colour, reference_stats.colour, reference.shape[0]),
        )
    reference_stats.clear_shared()
    return Measurement(
        extractor.name,
        reference_stats,
        partition.kind,
        [evaluations[id(s)] for s in samples],
        [evaluations[id(s)] for s in real],
    )


def _real_sample(source: ImageSource, held_out: Images, n: int) -> RealImages:
    """Held-out images sampled like a source: i.i.d., or with as many images of each of its strata if possible."""
    if source.strata is not None and source.model is not None:
        groups = _strata_of(source.model, held_out)
        if groups is not None:
            sizes = source.strata.bincount(minlength=int(groups.max()) + 1)
            try:
                return RealImages("stratified held-out images", held_out, groups=groups, sizes=sizes)
            except ValueError:
                pass  # a stratum has too few held-out images
    return RealImages("held-out images", held_out, n)


def _strata_of(model: Model | AutoencoderModel, images: Images) -> Tensor | None:
    """Class or pseudo-label of each image, by which a model's samples are stratified, int64 (N,); None if unknown."""
    labels = getattr(model.module, "pseudo_labels", None)
    if labels is None:
        classes = model.dataset_info.class_names
        known = classes is not None and images.labels is not None and not images.labels.is_floating_point()
        return images.labels if known else None
    parts, device = torch.arange(len(images)).split(1000), labels.centroids.device
    return torch.cat([labels.assign(to_float(images.get(part)).to(device)).cpu() for part in parts])


class _NearestSearch:
    """Searches for the nearest training images of each source, by pixels, by mirrored pixels and by features."""

    def __init__(
        self, stats: Sequence[FeatureStats], extractor: FeatureExtractor, pixels: PixelFeatures, reference_count: int
    ) -> None:
        """Start the searches for the first images of each source."""
        k = _neighbours(reference_count) + 1
        self._aligned = [AlignedSearch(s.images, k) for s in stats]
        size = smoothed(stats[0].images[:1]).numel()
        self._kept: list[Tensor] | None = [] if reference_count * size <= _MAX_KEPT_BYTES else None
        self._pixels, self._space = pixels, extractor.name
        self._vectors = [pixels.features(s.images) for s in stats]
        self._by_pixels = [NearestNeighbours(v, k) for v in self._vectors]
        self._mirrored = [NearestNeighbours(pixels.features(s.images.flip(-1)), k) for s in stats]
        by_features = not isinstance(extractor, PixelFeatures)
        self._by_features = [NearestNeighbours(s.features[:MAX_IMAGES], k) for s in stats] if by_features else []

    def add_reference(self, images: Tensor, features: Tensor, first: int) -> None:
        """Search a batch of the reference."""
        vectors = self._pixels.features(images)
        for search in self._by_pixels + self._mirrored:
            search.add_reference(vectors, first)
        for search in self._by_features:
            search.add_reference(features, first)
        for search in self._aligned:
            search.add_reference(images, first)
        if self._kept is not None:
            self._kept.append(smoothed(images).round().byte())

    def nearest(self, source: int, get: Callable[[Tensor], Tensor]) -> dict[str, NearestNeighbours | AlignedNeighbours]:
        """The results of a source, by the space of the search; ``get`` returns training images by their indices."""
        by_features = {self._space: self._by_features[source]} if self._by_features else {}
        if self._kept is not None:
            kept = self._kept = [torch.cat(self._kept)]
            aligned = self._aligned[source].result(lambda indices: kept[0][indices])
        else:
            aligned = self._aligned[source].result(lambda indices: smoothed(get(indices)))
        return {"pixels": self._by_pixels[source], ALIGNED: aligned} | by_features | {MIRRORED: self._mirrored[source]}

    def near_duplicates(self, source: int) -> NearestNeighbours:
        """The nearest other images of the source, among as many images as the smallest source has."""
        among = min(len(v) for v in self._vectors)
        return NearestNeighbours(self._vectors[source][:among], _neighbours(among) + 1).search_within()


def _neighbours(count: int) -> int:
    """How many neighbours set the scale among so many images."""
    return max(2, min(NEIGHBOURS, count // 10))
