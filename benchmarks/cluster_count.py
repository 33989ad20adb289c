"""The number of clusters that criteria choose on features, on sets whose number is known.

python benchmarks/cluster_count.py [--seeds S] [--first-seed S] [-n N] [--images SET ...]

Mixtures of unit Gaussians in 16 dimensions, evenly populated and 10 : 1, with means at a mean distance of 6 and 8; and
the pixels of sets with ten classes, where classes are no clusters, also with classes of 10 : 1. From 2 to 20 clusters:

    features             as of -q auto: a clear eigengap, or else a guess, which has a question mark
    eigengap             the largest one
    stability            the largest one
    prediction strength  the largest number with 0.8 (Tibshirani and Walther 2005)
    silhouette           the largest one (Rousseeuw 1987), of the spectral clusters
    BIC                  the least one, of mixtures of Gaussians with diagonal covariances
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from header import header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.clustering.baselines import flat_pixels
from fromnoise.clustering.count_selection import GUESS, select_by_features
from fromnoise.clustering.graph import NeighbourGraph, prepare_features
from fromnoise.clustering.resampling import half_partitions
from fromnoise.clustering.scores import contingency_table
from fromnoise.clustering.spectral import spectral_partitions
from fromnoise.clustering.task import prepare

COUNTS = tuple(range(2, 21))
CRITERIA = ("features", "eigengap", "stability", "prediction strength", "silhouette", "BIC")


def main() -> None:
    """Print a row for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=8, help="seeds 0 to 7 were used to choose the criterion")
    parser.add_argument("-n", type=int, default=2000, help="points or images")
    parser.add_argument("--images", nargs="*", default=["digits", "mnist", "fashion_mnist"])
    args = parser.parse_args()
    print(header(), flush=True)
    print(f"\n| set | clusters | {' | '.join(CRITERIA)} |\n|---|---|{'---|' * len(CRITERIA)}", flush=True)
    right: dict[str, list[bool]] = {c: [] for c in CRITERIA}
    for name, truth, sets in cases(args):
        found = [chosen(points, seed) for seed, points in zip(seeds_of(args), sets, strict=True)]
        cells = [" ".join(f"{f[c]}{'?' * (c == CRITERIA[0] and f['guess'])}" for f in found) for c in CRITERIA]
        print(f"| {name} | {truth} | {' | '.join(cells)} |", flush=True)
        if name.startswith("mixture"):
            for c in CRITERIA:
                right[c] += [f[c] == truth for f in found]
    total = [f"{sum(right[c])} of {len(right[c])}" for c in CRITERIA]
    print(f"| right on mixtures | | {' | '.join(total)} |")
    started = time.perf_counter()
    select_by_features(prepare_features(mixture(7, 8, False, 5000, 0)), COUNTS, 0)
    print(f"\nfeatures, 5,000 points, 2 to 20 clusters: {time.perf_counter() - started:.0f} s")


def seeds_of(args: argparse.Namespace) -> range:
    """The seeds of sets and criteria."""
    return range(args.first_seed, args.first_seed + args.seeds)


def cases(args: argparse.Namespace) -> Iterator[tuple[str, int, list[Tensor]]]:
    """Name, number of clusters, and features for each seed."""
    for clusters in (3, 7, 12):
        for distance in (6, 8):
            for uneven in (False, True):
                name = f"mixture, distance {distance}, {'10 : 1' if uneven else 'even'}"
                sets = [mixture(clusters, distance, uneven, args.n, seed) for seed in seeds_of(args)]
                yield name, clusters, [prepare_features(points) for points in sets]
    for source in args.images:
        for uneven in (False, True):
            sets = [pixels(source, uneven, args.n, seed) for seed in seeds_of(args)]
            yield f"{source}, {'10 : 1' if uneven else 'all'}", 10, sets


def mixture(clusters: int, distance: float, uneven: bool, points: int, seed: int) -> Tensor:
    """Points of unit Gaussians whose means are normal, at the given mean distance."""
    generator = torch.Generator().manual_seed(seed)
    weights = 10.0 ** (-torch.arange(clusters) / (clusters - 1)) if uneven else torch.ones(clusters)
    means = distance / 32**0.5 * torch.randn(clusters, 16, generator=generator)
    labels = torch.multinomial(weights, points, replacement=True, generator=generator)
    return means[labels] + torch.randn(points, 16, generator=generator)


def pixels(source: str, uneven: bool, images: int, seed: int) -> Tensor:
    """Principal components of images, of each class 10 to the power -k/9 of them if they are uneven."""
    keys = {"data.source": source, "clustering.images": images * (4 if uneven else 1), "train.seed": seed}
    task = prepare(recipes.load("mixture", keys), lambda line: None)
    chosen = torch.arange(len(task.index))
    if uneven:
        assert task.labels is not None
        keep = torch.rand(len(chosen), generator=torch.Generator().manual_seed(seed)) < 10.0 ** (-task.labels / 9)
        chosen = chosen[keep][:images]
    return prepare_features(flat_pixels(task.data.train, chosen))


def chosen(points: Tensor, seed: int) -> dict[str, int]:
    """The number of clusters by each criterion."""
    from sklearn.metrics import silhouette_score
    from sklearn.mixture import GaussianMixture

    ours = select_by_features(points, COUNTS, seed)
    halves = half_partitions(points, COUNTS, seed, splits=4)
    strong = [q for i, q in enumerate(COUNTS) if prediction_strength(halves[:, :, i], seed) >= 0.8]
    labels = spectral_partitions(NeighbourGraph.from_points(points), COUNTS, seed)
    silhouettes = [silhouette_score(points.numpy(), x.numpy(), sample_size=1000, random_state=seed) for x in labels]
    leading: Any = points[:, :16].double().numpy()
    small = 1e-3 * float(leading.var(0).mean())
    bic = [GaussianMixture(q, covariance_type="diag", reg_covar=small, random_state=seed).fit(leading) for q in COUNTS]
    return {
        "guess": int(ours.criterion == GUESS),
        "features": ours.count,
        "eigengap": max(ours.scores, key=lambda s: s.eigengap).count,
        "stability": max(ours.scores, key=lambda s: s.stability).count,
        "prediction strength": strong[-1] if strong else 1,
        "silhouette": COUNTS[int(np.argmax(silhouettes))],
        "BIC": COUNTS[int(np.argmin([m.bic(leading) for m in bic]))],
    }


def prediction_strength(partitions: Tensor, seed: int) -> float:
    """The least fraction, over clusters of a half, of pairs that are together by the other half; mean over splits.

    Args:
        partitions: clusters of all points by each half, int64 (splits, 2, N).
        seed: of the splits.
    """
    strengths = []
    for split, pair in enumerate(partitions):
        count = pair.shape[1]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + split))
        for side, half in enumerate((order[: count // 2], order[count // 2 :])):
            table = contingency_table(pair[side][half], pair[1 - side][half]).double()
            size = table.sum(1)
            together = (table * (table - 1)).sum(1) / (size * (size - 1)).clamp(min=1)
            strengths.append(float(together[size > 1].min()))
    return sum(strengths) / len(strengths)


if __name__ == "__main__":
    main()
