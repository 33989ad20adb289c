"""What measuring will take, tried on a few images before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from fromnoise.data import Images
from fromnoise.evaluation.features.extractors import Features, Pixels
from fromnoise.evaluation.measurement import LIMIT, LOOKED_UP
from fromnoise.evaluation.metrics.nearest import Nearest
from fromnoise.evaluation.metrics.prdc import kernel
from fromnoise.evaluation.sources import ImageSource, RealImages

_TRIED = 256  # images
_PAIRED = 512  # vectors


def images(subjects: Sequence[ImageSource], reference: RealImages, held_out: Images) -> int:
    """How many are looked at: of the subjects, their floors and the reference."""
    counts = [s.count for s in subjects]
    return sum(counts) + sum(min(n, len(held_out)) for n in set(counts)) + reference.count


def seconds(subjects: Sequence[ImageSource], reference: RealImages, held_out: Images, space: Features) -> float:
    """Of looking at all images and of all pairs, without the drawing.

    Args:
        subjects: what is judged.
        reference: what it is compared with.
        held_out: for the floors.
        space: the features.
    """
    some = held_out.get(torch.arange(_TRIED) % len(held_out))
    space.see(some[:2])  # whatever the first call alone does
    look = _timed(lambda: space.see(some)) / _TRIED
    vectors = torch.rand(_PAIRED, space.size, dtype=torch.float64)
    pair = _timed(lambda: kernel(vectors, vectors)) / (3 * _PAIRED**2)
    bare = Pixels(reference.shape).see(some).features
    search = Nearest(bare)
    neighbour = _timed(lambda: search.update(bare, 0)) / len(bare) ** 2

    counts = [s.count for s in subjects]
    floors = [min(n, len(held_out)) for n in set(counts)]
    real = min(reference.count, LIMIT)
    few = [min(n, LIMIT) for n in counts + floors]
    pairs = 2 * real**2 + sum(3 * n**2 + 2 * n * real for n in few)
    searched = sum(min(n, LOOKED_UP) * reference.count for n in few) * (2 if isinstance(space, Pixels) else 3)
    return images(subjects, reference, held_out) * look + pairs * pair + searched * neighbour


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
