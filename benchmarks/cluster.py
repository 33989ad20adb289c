"""Clustering accuracy on labelled data over several seeds: baselines, starts, EM, its controls, and a few labels.

python benchmarks/cluster.py [SET ...] [--parts PART ...] [--seeds S] [-n N] [--steps K] [--out DIR]
                             [--set KEY=VALUE ...]

SET is a data SPEC or one of ``clustering_sets.py``. The parts, each with the time it took:

baselines   k-means, a Gaussian mixture and spectral clusters of pixels and their principal components
start       the encoder's features by k-means, by a Gaussian mixture and by spectral clusters, which start EM
em          EM from that start, as fromnoise cluster runs it
controls    from the same start and with as many steps: training on the clusters of the start, with one E-step at the
            end; EM without the start's likelihood in the E-steps, at temperature 1
moves       EM with split-and-merge moves
partitions  the two partitions of the encoder's features: the best fit of k-means and the least normalized cut
counts      the start with numbers of clusters that differ from that of the classes, with their purity
labels      ten labels a class: the start with them, and EM

Accuracy of ``labels`` is over the images without a given label. Results are kept in --out: the same command again
resumes unfinished runs and reads the scores of finished ones. The tables are printed at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from clustering_sets import spec_of
from header import header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.clustering.agreement import reliabilities
from fromnoise.clustering.baselines import KMEANS_RESTARTS, flat_pixels, gaussian_mixture, principal_components
from fromnoise.clustering.calibration import Reliability
from fromnoise.clustering.fit import ClusteringResult, fit_mixture
from fromnoise.clustering.given_labels import align_clusters
from fromnoise.clustering.graph import NeighbourGraph, prepare_features
from fromnoise.clustering.init import InitialClusters, encoder_features
from fromnoise.clustering.scores import ClusterScores, majority_classes
from fromnoise.clustering.semi_supervised import spread_given_labels
from fromnoise.clustering.spectral import spectral_clusters, spectral_partition
from fromnoise.clustering.task import ClusteringTask, prepare
from fromnoise.data import load
from fromnoise.utils.device import select_device
from fromnoise.utils.files import write_atomic
from fromnoise.utils.kmeans import kmeans

GIVEN = 10
"""Given labels of each class."""
CONTROLS: dict[str, dict[str, Any]] = {
    "training alone, one E-step": {"clustering.rounds": 1, "clustering.split_merge": 0.0, "clustering.min_weight": 0.0},
    "EM by the bound alone": {
        "clustering.encoder_weight": 0.0,
        "clustering.temperature": 1.0,
        "clustering.temperature_last": 1.0,
    },
}
MOVES = "EM with split-and-merge"
COUNTS = (0.5, 0.7, 1.0, 1.5, 2.0)
"""Numbers of clusters in those of the classes."""
Records = dict[str, dict[str, float]]


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["digits", "mnist", "fashion_mnist"])
    parser.add_argument("--parts", nargs="+", default=["baselines", "start"], choices=PARTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=600, help="training steps of EM")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-cluster"))
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the recipe")
    args = parser.parse_args()
    print(header(), flush=True)
    for name in args.sets:
        rows: dict[str, list[dict[str, float]]] = {}
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            case = Case.of(args, name, seed)
            for part in args.parts:
                for label, record in case.records(part).items():
                    rows.setdefault(label, []).append(record)
        print_table(name, args.n, rows)


@dataclass
class Case:
    """A set, a number of images and a seed.

    Attributes:
        keys: of the recipe.
        task: the images.
        stem: of the files of this case.
        precision: as in ``select_device``.
    """

    keys: dict[str, Any]
    task: ClusteringTask
    stem: Path
    precision: str

    @staticmethod
    def of(args: argparse.Namespace, name: str, seed: int) -> Case:
        """Open the set."""
        spec = spec_of(name, args.out)
        data = load(spec, log=lambda line: None)
        assert data.class_names is not None
        keys = {"data.source": spec, "train.seed": seed, "clustering.count": len(data.class_names)}
        keys |= {"train.steps": args.steps, "clustering.images": args.n, "data.labels": True}
        keys |= {key: json.loads(value) for key, _, value in (word.partition("=") for word in args.set)}
        task = prepare(recipes.load("mixture", keys), lambda line: None)
        stem = args.out / f"{Path(spec).stem}-{args.n}-{seed}"
        return Case(keys, task, stem, args.precision)

    @property
    def recipe(self) -> recipes.Recipe:
        """The recipe ``mixture`` for this set."""
        return recipes.load("mixture", self.keys)

    @property
    def labels(self) -> Tensor:
        """The true classes."""
        assert self.task.labels is not None
        return self.task.labels

    def records(self, part: str) -> Records:
        """Scores of a part, and the seconds it took; read if they were measured."""
        path = self.stem.with_name(f"{self.stem.name}-{part}.json")
        if not path.exists():
            start = time.perf_counter()
            found = PARTS[part](self)
            write_atomic(
                path, json.dumps({"seconds": time.perf_counter() - start, "records": found}, indent=1).encode()
            )
        stored = json.loads(path.read_text())
        print(f"{self.stem.name}: {part} took {stored['seconds']:.0f} s", flush=True)
        return stored["records"]

    @cached_property
    def features(self) -> Tensor:
        """The features of the encoder, computed once."""
        path = self.stem.with_name(f"{self.stem.name}-features.pt")
        if not path.exists():
            recipe = self.recipe
            compute = select_device("cpu", self.precision)
            found = encoder_features(self.task.data.train, recipe.clustering, compute, recipe.train.seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(found, path)
        return torch.load(path, weights_only=True)

    @cached_property
    def start(self) -> InitialClusters:
        """The clusters that start EM."""
        points = prepare_features(self.features)
        return InitialClusters(spectral_clusters(points, self.clusters, self.keys["train.seed"]), points)

    @property
    def clusters(self) -> int:
        """The number of clusters."""
        return self.keys["clustering.count"]

    def score(self, q: Tensor, only: Tensor | None = None) -> dict[str, float]:
        """Agreement of responsibilities (N, Q) or clusters (N,) with the labels, of the images ``only`` if given."""
        chosen = torch.arange(len(q)) if only is None else only
        clusters = (q if q.dim() == 1 else q.argmax(1))[chosen]
        record = dict(ClusterScores.from_labels(clusters, self.labels[chosen]).__dict__)
        if q.dim() == 2:
            record["ece"] = Reliability.of_clusters(q[chosen], clusters, self.labels[chosen]).ece
        return record

    def fit(self, label: str, keys: dict[str, Any]) -> ClusteringResult:
        """EM from the start, in a run directory of its own."""
        folder = self.stem.with_name(f"{self.stem.name}-{label.replace(' ', '-').replace(',', '')}")
        recipe = recipes.load("mixture", self.keys | keys)
        result = fit_mixture(recipe, folder, init=self.start, device="cpu", precision=self.precision)
        if result.signal:
            raise SystemExit(f"{folder} is unfinished: run the same command again")
        return result


def baselines(case: Case) -> Records:
    """Pixels by k-means; their principal components by k-means, a mixture and spectral clusters."""
    pixels, seed, count = flat_pixels(case.task.data.train), case.keys["train.seed"], case.clusters
    reduced = principal_components(pixels)
    return {
        "k-means, pixels": case.score(kmeans(pixels, count, seed, KMEANS_RESTARTS).labels),
        "k-means, PCA": case.score(kmeans(reduced, count, seed, KMEANS_RESTARTS).labels),
        "Gaussian mixture, PCA": case.score(gaussian_mixture(reduced, count, seed)),
        "spectral, PCA": case.score(spectral_clusters(reduced, count, seed)),
    }


def starts(case: Case) -> Records:
    """The encoder's features by k-means, a mixture and spectral clusters."""
    features, seed, count = case.features, case.keys["train.seed"], case.clusters
    reduced = principal_components(features, 20)
    return {
        "k-means, encoder": case.score(kmeans(features, count, seed, KMEANS_RESTARTS).labels),
        "Gaussian mixture, encoder": case.score(gaussian_mixture(reduced, count, seed)),
        "start: spectral, encoder": case.score(case.start.q),
    }


def em(case: Case) -> Records:
    """EM from the start."""
    return {"EM": _em_record(case, case.fit("em", {}))}


def controls(case: Case) -> Records:
    """The same budget without one of EM's parts."""
    return {label: _em_record(case, case.fit(label, keys)) for label, keys in CONTROLS.items()}


def moves(case: Case) -> Records:
    """EM with split-and-merge moves."""
    return {MOVES: _em_record(case, case.fit(MOVES, {"clustering.split_merge": 0.9}))}


def partitions(case: Case) -> Records:
    """The partitions that k-means fits best and that is cut least, of the same features."""
    graph = NeighbourGraph.from_points(prepare_features(case.features))
    kinds = {"best fit": False, "least cut": True}
    seed = case.keys["train.seed"]
    return {kind: case.score(spectral_partition(graph, case.clusters, seed, by)) for kind, by in kinds.items()}


def counts(case: Case) -> Records:
    """The start with wrong numbers of clusters; the purity is the fraction of their most frequent classes."""
    points, out = case.start.features, {}
    assert points is not None
    for factor in COUNTS:
        count = round(factor * case.clusters)
        clusters = spectral_clusters(points, count, case.keys["train.seed"]).argmax(1)
        pure = majority_classes(clusters, case.labels)[clusters] == case.labels
        out[f"start with {count} clusters"] = case.score(clusters) | {"purity": float(pure.double().mean())}
    return out


def _em_record(case: Case, result: ClusteringResult) -> dict[str, float]:
    last: dict[str, Any] = result.rounds[-1]
    record = case.score(result.q) | {"bound": last["bound"]["value"], "e_step_gain": last["e_step_gain"]["value"]}
    reliability = reliabilities(result)["calibrated"]
    record |= {"calibrated_ece": reliability.ece, "ece_by_chance": reliability.by_chance}
    return record | {"moves": float(sum(len(r["split_merged"]) for r in result.rounds))}


def ten_labels(case: Case) -> Records:
    """The start with given labels, and EM from it."""
    given = torch.full((len(case.labels),), -1)
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(case.keys["train.seed"]))
    for c in range(case.clusters):
        given[order[case.labels[order] == c][:GIVEN]] = c
    rest = (given < 0).nonzero().flatten()

    def record(q: Tensor) -> dict[str, float]:
        clusters = q.argmax(1)
        right = (clusters == case.labels)[rest]
        found = {"accuracy": float(right.double().mean())}
        return found | {"ece": Reliability.measure(q[rest].amax(1), right).ece}

    aligned, start = align_clusters(case.start.q, given), spread_given_labels(case.start, given)
    return {f"start, aligned with {GIVEN} labels a class": record(aligned), f"start with {GIVEN} labels": record(start)}


PARTS: dict[str, Callable[[Case], Records]] = {
    "baselines": baselines,
    "start": starts,
    "em": em,
    "controls": controls,
    "moves": moves,
    "partitions": partitions,
    "counts": counts,
    "labels": ten_labels,
}


def print_table(name: str, limit: int, rows: dict[str, list[dict[str, float]]]) -> None:
    """Mean and standard deviation over the seeds, and paired differences of EM and its controls."""
    columns = (
        "accuracy",
        "nmi",
        "ari",
        "purity",
        "ece",
        "calibrated_ece",
        "ece_by_chance",
        "bound",
        "e_step_gain",
        "moves",
    )
    print(f"\n{name}, at most {limit:,} images, {len(next(iter(rows.values())))} seeds")
    for label, records in rows.items():
        cells = [
            f"{column} {_mean_and_deviation([r[column] for r in records])}"
            for column in columns
            if column in records[0]
        ]
        print(f"| {label} | " + " | ".join(cells) + " |")
        print("    accuracy by seed: " + " ".join(f"{r['accuracy']:.4f}" for r in records))
    if "EM" not in rows:
        return
    for label in ("start: spectral, encoder", *CONTROLS, MOVES):
        for column in ("accuracy", "nmi", "bound"):
            if label in rows and column in rows[label][0]:
                pairs = zip(rows["EM"], rows[label], strict=True)
                differences = torch.tensor([a[column] - b[column] for a, b in pairs], dtype=torch.float64)
                error = float(differences.std()) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
                print(f"  EM - {label}: {column} {float(differences.mean()):+.4f} +- {error:.4f} (standard error)")


def _mean_and_deviation(values: list[float]) -> str:
    found = torch.tensor(values, dtype=torch.float64)
    deviation = f" +- {float(found.std()):.3f}" if len(found) > 1 else ""
    return f"{float(found.mean()):.3f}{deviation}"


if __name__ == "__main__":
    main()
