"""The number of clusters, chosen on features before any model is trained.

Two criteria, both of the graph of ``clustering.graph``:

- the eigengap, lambda_Q - lambda_(Q+1) of the normalized affinity: Q groups that are hardly joined to each other have Q
  eigenvalues near 1, and a gap below them (von Luxburg 2007, sec. 8.3);
- the stability: the agreement (adjusted Rand index) of the clusters that two random halves of the features give, on all
  points (Tibshirani and Walther 2005; Lange et al. 2004). Too many clusters cut groups anywhere, and each half
  elsewhere; so do too few clusters, which join groups at random. Alone it is no criterion: it is often largest at a
  small Q, for a few broad parts of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.clustering.baselines import flat_pixels
from fromnoise.clustering.features import feature_source
from fromnoise.clustering.graph import NeighbourGraph, prepare_features
from fromnoise.clustering.init import encoder_features, within_budget
from fromnoise.clustering.resampling import half_partitions
from fromnoise.clustering.task import ClusteringTask
from fromnoise.config import Recipe
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

GUESS = "eigengap times stability"
"""The criterion where no number stands out."""
_SPLITS = 4
_CLEAR = 2.0  # ratio of the largest to the next eigengap that shows clusters beyond doubt
_MOST_IMAGES = 5000


@dataclass(frozen=True)
class CountScore:
    """Criteria of a number of clusters.

    Attributes:
        count: Q.
        stability: mean adjusted Rand index of the clusters of two halves.
        error: its standard error over the splits, which share points and are no independent samples.
        eigengap: lambda_Q - lambda_(Q+1).
    """

    count: int
    stability: float
    error: float
    eigengap: float


@dataclass(frozen=True)
class CountSelection:
    """A selected number of clusters.

    Attributes:
        scores: of every number that was compared, in ascending order.
        count: the selected number.
        criterion: ``eigengap``, or ``GUESS`` where no eigengap is clear.
        points: number of images whose features were used.
    """

    scores: tuple[CountScore, ...]
    count: int
    criterion: str
    points: int

    def table(self) -> list[str]:
        """A line for each number, below a head, and one for the result."""
        lines = ["clusters  stability        eigengap"]
        for s in self.scores:
            mark = "  <-" if s.count == self.count else ""
            lines.append(f"{s.count:8}  {s.stability:.3f} +- {s.error:.3f}  {s.eigengap:8.4f}{mark}")
        lines.append(f"selected {self.count} clusters by {self.criterion}, on {self.points:,} images")
        if self.criterion == GUESS:
            lines.append("no number of clusters stands out in these features: prefer the one that you expect")
        return lines

    def json(self) -> dict[str, Any]:
        """The same for a JSON file."""
        return dict(self.__dict__) | {"scores": [dict(s.__dict__) for s in self.scores]}


def select_by_features(points: Tensor, counts: Sequence[int], seed: int) -> CountSelection:
    """The number of clusters of the largest eigengap, if it is clear: twice the next one or more.

    Otherwise no number stands out, and the one with the largest product of eigengap and stability is a guess.

    Args:
        points: features, float (N, D); see ``prepare_features``.
        counts: numbers to compare, at least 2.
        seed: of the halves and of the clusterings.

    Raises:
        UserError: there are fewer than two points for each cluster in a half.
    """
    counts = sorted(counts)
    if len(points) < 4 * counts[-1]:
        raise UserError(f"{len(points)} images are too few to compare up to {counts[-1]} clusters: use a smaller -q")
    values, _ = NeighbourGraph.from_points(points).leading_eigenvectors(counts[-1] + 1, seed)
    stabilities = _stabilities(half_partitions(points, counts, seed, _SPLITS))
    scores = []
    for count, stability in zip(counts, stabilities, strict=True):
        error = float(stability.std() / len(stability) ** 0.5)
        gap = float(values[count - 1] - values[count])
        scores.append(CountScore(count, float(stability.mean()), error, gap))
    widest, *others = sorted(scores, key=lambda s: s.eigengap, reverse=True)
    if not others or widest.eigengap >= _CLEAR * others[0].eigengap:
        return CountSelection(tuple(scores), widest.count, "eigengap", len(points))
    best = max(scores, key=lambda s: s.eigengap * max(s.stability, 0.0))
    return CountSelection(tuple(scores), best.count, GUESS, len(points))


def _stabilities(partitions: Tensor) -> Tensor:
    """Adjusted Rand indices of ``half_partitions``, float64 (counts, splits)."""
    from sklearn.metrics import adjusted_rand_score

    rows = [
        [adjusted_rand_score(a[q].numpy(), b[q].numpy()) for a, b in partitions] for q in range(partitions.shape[2])
    ]
    return torch.tensor(rows, dtype=torch.float64)


def select_count_of(
    task: ClusteringTask,
    recipe: Recipe,
    counts: Sequence[int],
    compute: ComputeConfig,
    on_progress: Callable[[float], object] = lambda fraction: None,
) -> tuple[CountSelection, Tensor | None]:
    """``select_by_features`` on the features that the clustering starts from.

    These are the features of ``clustering.features``, those of the encoder, which is trained for it, or else the
    pixels of the images.

    Args:
        task: images to cluster; up to 5,000 of them, evenly spaced, are compared.
        recipe: names the features, and gives the seed.
        counts: as in ``select_by_features``.
        compute: device and precision of the encoder, or of the network of a run.
        on_progress: called with the completed fraction while the encoder trains.

    Returns:
        The selection, and the encoder's features of all images, (N, D), which need not be computed again; or None.

    Raises:
        UserError: as ``select_by_features``, or the features cannot be used.
    """
    images, seed = task.data.train, recipe.train.seed
    ids = torch.linspace(0, len(task.index) - 1, min(_MOST_IMAGES, len(task.index))).round().long()
    encoded = None
    if recipe.clustering.init == "encoder":
        config = within_budget(recipe.clustering, recipe.train.minutes, images, compute)
        encoded = encoder_features(images, config, compute, seed, on_progress)
        features = encoded[ids]
    else:
        source = feature_source(recipe, task, compute, ids)
        features = source(on_progress).matrix if source else flat_pixels(images, ids)
    return select_by_features(prepare_features(features), counts, seed), encoded
