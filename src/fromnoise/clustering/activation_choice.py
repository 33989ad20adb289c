"""The block and the time whose activations are the features of a clustering, chosen without labels.

Every block of the network is compared at a few times on a part of the images: the best one is that at which an image
has the most of its nearest neighbours again under independent noise. Features that follow the noise have other
neighbours each time, and so do features that are the same for all images. The measure needs no clusters, so the choice
does not depend on their number. How it compares with other measures: docs/results/clustering.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.clustering.activations import Activations, standardized
from fromnoise.clustering.expectation import evenly_spaced
from fromnoise.clustering.graph import NEIGHBOURS, prepare_features
from fromnoise.data import Images

TIMES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6)
"""Times t that are compared."""
CRITERION = "shared neighbours"
_IMAGES, _LAYERS = 1000, 12  # at most
_NOISES = ((0, 1), (2, 3))  # of the two sets of features


@dataclass(frozen=True)
class Candidate:
    """A block and a time that are compared.

    Attributes:
        layer: name of the block.
        time: t in (0, 1).
        value: the fraction of shared neighbours.
    """

    layer: str
    time: float
    value: float


@dataclass(frozen=True)
class ActivationChoice:
    """A chosen block and time.

    Attributes:
        layer: name of the block.
        time: t in (0, 1).
        value: the fraction of shared neighbours there.
        images: number of images on which it was chosen.
        candidates: all that were compared.
    """

    layer: str
    time: float
    value: float
    images: int
    candidates: tuple[Candidate, ...]

    def describe(self) -> str:
        """The choice in a line."""
        return (
            f"activations of block {self.layer} at t = {self.time:g}: {CRITERION} {self.value:.3f}, "
            f"the most of {len(self.candidates)} on {self.images:,} images"
        )

    def json(self) -> dict[str, Any]:
        """The same for a JSON file."""
        return {"criterion": CRITERION} | asdict(self)


def choose(
    activations: Activations,
    images: Images,
    on_progress: Callable[[float], object] = lambda fraction: None,
    times: Sequence[float] = TIMES,
) -> ActivationChoice:
    """Choose the block and the time with the most shared neighbours, on at most 1,000 images and 12 blocks.

    Args:
        activations: of a model.
        images: images to cluster.
        on_progress: called with the completed fraction.
        times: to compare, in (0, 1).

    Raises:
        UserError: as ``Activations.at``.
    """
    ids = evenly_spaced(len(images), _IMAGES)
    names = activations.layers
    layers = [names[int(i)] for i in evenly_spaced(len(names), _LAYERS)]
    found: list[Candidate] = []
    for time in times:
        first, second = (activations.at(images, ids, time, layers, noises) for noises in _NOISES)
        for layer in layers:
            points = [prepare_features(standardized(features.pop(layer))) for features in (first, second)]
            found.append(Candidate(layer, time, shared_neighbours(*points)))
            on_progress(len(found) / (len(layers) * len(times)))
    best = max(found, key=lambda c: c.value)
    return ActivationChoice(best.layer, best.time, best.value, len(ids), tuple(found))


def shared_neighbours(first: Tensor, second: Tensor) -> float:
    """The fraction of the nearest neighbours among one set of points that are so among the other, mean over the points.

    Args:
        first: points (n, D).
        second: the same points from independent noise, (n, D).
    """
    near, again = _nearest(first), _nearest(second)
    return float((near[:, :, None] == again[:, None, :]).any(2).double().mean())


def _nearest(points: Tensor) -> Tensor:
    """The nearest other points of each, int64 (n, k)."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBOURS, len(points) - 1)
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(points.float().numpy())
    return torch.from_numpy(search.kneighbors(return_distance=False)).long()
