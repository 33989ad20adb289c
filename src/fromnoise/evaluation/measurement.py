"""One pass over the images of a subject, and all numbers that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor

from fromnoise.data import Images
from fromnoise.evaluation.features.extractors import FeatureBatch, Features, Pixels
from fromnoise.evaluation.metrics import class_balance
from fromnoise.evaluation.metrics.frechet import ClassVotes, Estimate, Frechet, Moments, frechet_from, score
from fromnoise.evaluation.metrics.nearest import NEIGHBOURS, Nearest
from fromnoise.evaluation.metrics.prdc import Manifold, Reference
from fromnoise.evaluation.sources import Cost, ImageSource, RealImages
from fromnoise.utils.errors import UserError

PARTS = 20  # into which samples are cut for the jackknife
LEAST = 10  # images of which something can be said
LIMIT = 10_000  # vectors kept, of which all pairs are taken
LOOKED_UP = 2_000  # samples kept as pictures, whose nearest training images are looked for
MIRRORED = "mirrored pixels"  # the space in which a sample is turned left to right before it is looked up

OnProgress = Callable[[int], object]
"""Takes how many images more are done."""
Also = Callable[[Tensor, Tensor, int], object]


def _ignore(*told: object) -> None:
    pass


Sums = TypeVar("Sums", Moments, ClassVotes)


def _plus(a: Sums | None, b: Sums) -> Sums:
    return b if a is None else a + b


@dataclass(frozen=True)
class FeatureStats:
    """What is kept of a pass over images: sums of all, and some of the first.

    Attributes:
        name: of the subject.
        n: images.
        parts: moments of the features of each of ``PARTS`` runs of images.
        votes: sums over class probabilities of the same parts; empty without classes.
        seen: features and probabilities of the first ``LIMIT`` images, float32.
        looks: moments of ``class_balance.looks``.
        pictures: the first ``LOOKED_UP``, uint8.
        cost: of drawing.
    """

    name: str
    n: int
    parts: list[Moments]
    votes: list[ClassVotes]
    seen: FeatureBatch
    looks: Moments
    pictures: Tensor
    cost: Cost | None

    @property
    def moments(self) -> Moments:
        """Of all features."""
        return reduce(Moments.__add__, self.parts)


def tally(
    subject: ImageSource, features: Features, on_step: OnProgress = _ignore, also: Also = _ignore
) -> FeatureStats:
    """Look at all images of a subject once.

    Args:
        subject: whose images come.
        features: taken of them.
        watch: called after each batch.
        also: called with each batch, its features and the number of its first image.
    """
    n, done = subject.count, 0
    parts = max(1, min(PARTS, n // 2))
    moments: dict[int, Moments] = {}
    votes: dict[int, ClassVotes] = {}
    looks: Moments | None = None
    kept: dict[str, list[Tensor]] = {"features": [], "probabilities": [], "pictures": []}
    for images in subject.batches():
        images = images.cpu()
        seen = features.all(images)
        for part, cut in _cuts(done, len(images), n, parts):
            moments[part] = _plus(moments.get(part), Moments.of(seen.features[cut]))
            if seen.probabilities is not None:
                votes[part] = _plus(votes.get(part), ClassVotes.of(seen.probabilities[cut]))
        looks = _plus(looks, Moments.of(class_balance.looks(images)))
        kept["features"].append(seen.features[: max(0, LIMIT - done)].float())
        if seen.probabilities is not None:
            kept["probabilities"].append(seen.probabilities[: max(0, LIMIT - done)].float())
        kept["pictures"].append(images[: max(0, LOOKED_UP - done)])
        also(images, seen.features, done)
        done += len(images)
        on_step(len(images))
    assert looks is not None  # a subject has images
    joined = {key: torch.cat(values) for key, values in kept.items() if values}
    return FeatureStats(
        subject.name,
        done,
        list(moments.values()),
        list(votes.values()),
        FeatureBatch(joined["features"], joined.get("probabilities")),
        looks,
        joined["pictures"],
        subject.cost,
    )


def _cuts(first: int, count: int, n: int, parts: int) -> Iterator[tuple[int, slice]]:
    """The images ``first .. first + count - 1`` of n, cut where one of ``parts`` equal runs ends."""
    ends = [n * (p + 1) // parts for p in range(parts)]
    for part, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        cut = slice(max(begin, first) - first, min(end, first + count) - first)
        if cut.start < cut.stop:
            yield part, cut


# ---- numbers


@dataclass(frozen=True)
class Evaluation:
    """What is said of a subject beside the reference.

    Attributes:
        tally: what was kept of it.
        frechet: distance, with its limit for endless samples.
        kernel: distance.
        neighbourhoods: precision, recall, density, coverage.
        score: confidence and variety; None without classes.
        nearest: nearest training images of the first samples, by the space they were looked for in.
        twins: nearest other samples, by pixels, among as many as there are held-out images.
        shares: of the classes or clusters.
        shifts: of brightness, contrast and colour.
    """

    tally: FeatureStats
    frechet: Frechet
    kernel: Estimate
    neighbourhoods: Manifold
    score: Estimate | None
    nearest: dict[str, Nearest]
    twins: Nearest
    shares: list[class_balance.Share]
    shifts: list[class_balance.Shift]


@dataclass(frozen=True)
class Measurement:
    """Subjects beside the reference.

    Attributes:
        features: their name.
        reference: what was kept of the training images.
        kind: what ``shares`` are of: class or cluster.
        judged: one a subject.
        floors: the same of as many held-out real images (or as there are), for each subject.
    """

    features: str
    reference: FeatureStats
    kind: str
    judged: list[Evaluation]
    floors: list[Evaluation]


def measure(
    subjects: Sequence[ImageSource],
    reference: RealImages,
    held_out: Images,
    features: Features,
    on_step: Callable[[str, int], object] = lambda name, more: None,
) -> Measurement:
    """Judge subjects, and held-out real images as their floor.

    The reference is read once, after the samples, so that it need not be kept.

    Args:
        subjects: what is judged.
        reference: the images that the models learned from.
        held_out: real images that they did not.
        features: in which distances are measured.
        watch: called with the name of what is looked at and how many images more are done.

    Raises:
        UserError: there are fewer than ten samples of one, or of the images.
    """
    for name, count in [(s.name, s.count) for s in subjects] + [("the held-out part", len(held_out))]:
        if count < LEAST:
            raise UserError(f"{name} has {count} images: nothing can be said of fewer than {LEAST}")

    def look(subject: ImageSource, also: Also = _ignore) -> FeatureStats:
        return tally(subject, features, lambda more: on_step(subject.name, more), also)

    tallies = [look(s) for s in subjects]
    floors = {n: look(RealImages("held-out images", held_out, n)) for n in sorted({t.n for t in tallies})}
    everything = [*tallies, *floors.values()]
    k = max(2, min(NEIGHBOURS, reference.count // 10)) + 1
    pixels = Pixels(reference.shape)
    plain = [pixels.of(t.pictures) for t in everything]
    among = min(len(p) for p in plain)
    by_pixels = [Nearest(p, k) for p in plain]
    by_mirror = [Nearest(pixels.of(t.pictures.flip(-1)), k) for t in everything]
    own = not isinstance(features, Pixels)
    by_features = [Nearest(t.seen.features[:LOOKED_UP], k) for t in everything] if own else []

    def look_up(images: Tensor, seen: Tensor, first: int) -> None:
        bare = pixels.of(images)
        for each in by_pixels + by_mirror:
            each.update(bare, first)
        for each in by_features:
            each.update(seen, first)

    real = look(reference, look_up)
    modes = class_balance.modes(features, real.seen)
    vectors = Reference(real.seen.features)
    done: dict[int, Evaluation] = {}
    for i, t in enumerate(everything):
        hood = vectors.neighbourhoods(t.seen.features)
        done[id(t)] = Evaluation(
            t,
            frechet_from(t.parts, real.moments),
            vectors.kernel(t.seen.features),
            hood,
            score(_ten(t.votes)) if t.votes else None,
            {"pixels": by_pixels[i]} | ({features.name: by_features[i]} if own else {}) | {MIRRORED: by_mirror[i]},
            Nearest(plain[i][:among], max(2, min(NEIGHBOURS, among // 10)) + 1).among_themselves(),
            class_balance.shares(modes.of(t.seen), modes.of(real.seen), modes.names),
            class_balance.shifts(t.looks, real.looks, reference.shape[0]),
        )
    judged = [done[id(t)] for t in tallies]
    return Measurement(features.name, real, modes.what, judged, [done[id(floors[t.n])] for t in tallies])


def _ten(votes: list[ClassVotes]) -> list[ClassVotes]:
    """Twenty parts as ten, by pairs: the custom of the Inception Score."""
    return [reduce(ClassVotes.__add__, votes[i : i + 2]) for i in range(0, len(votes), 2)]
