"""Clusterings with some labels of each class: accuracy, and calibration errors before and after.

python benchmarks/cluster_labels.py [SET ...] [--labels K ...] [--first-seed S] [--seeds S] [-n N]
                                    [--minutes M | --steps K] [--out DIR] [--precision P] [--set KEY=VALUE ...]

For each number of labels of each class, drawn by the seed: accuracy of the initial clusters and after EM, of the images
without given labels; the expected calibration error of the assigned clusters' probabilities before and after, and that
of probabilities that are right, which is chance; and the labels spread over the pixels alone, without a model. With 0
labels clusters are matched with classes one to one.

Runs are kept in --out: the same command again resumes unfinished runs and reads the results of finished ones.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import torch
from header import header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.clustering.agreement import json_of
from fromnoise.clustering.baselines import flat_pixels
from fromnoise.clustering.fit import fit_mixture
from fromnoise.clustering.graph import NeighbourGraph, label_seeds, prepare_features, propagate
from fromnoise.clustering.task import ClusteringTask, prepare
from fromnoise.utils.files import write_atomic

CLASSES = 10


def main() -> None:
    """Measure what is missing, and print a table of each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["digits", "mnist", "fashion_mnist"])
    parser.add_argument("--labels", type=int, nargs="*", default=[0, 1, 10])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-cluster-labels"))
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the recipe")
    args = parser.parse_args()
    print(header(), flush=True)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    for source in args.sets:
        rows = {k: [measure(args, source, k, seed) for seed in seeds] for k in args.labels}
        print_table(source, args.n, rows)


def measure(args: argparse.Namespace, source: str, labels: int, seed: int) -> dict[str, float]:
    """Results of one run; those in the cache are read."""
    name = f"{Path(source).stem}-{labels}-{seed}"
    path = args.out / f"{name}.json"
    if not path.exists():
        start = time.perf_counter()
        found = run(args, source, labels, seed, args.out / name)
        write_atomic(path, json.dumps(found | {"seconds": time.perf_counter() - start}, indent=1).encode())
    found = json.loads(path.read_text())
    print(f"{name}: {found['seconds']:.0f} s, " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()), flush=True)
    return found


def run(args: argparse.Namespace, source: str, labels: int, seed: int, out: Path) -> dict[str, float]:
    """Cluster with some labels, and measure."""
    keys: dict[str, Any] = {"data.source": source, "train.seed": seed, "clustering.count": CLASSES}
    keys |= {"clustering.images": args.n}
    keys |= {"train.minutes": args.minutes} if args.minutes else {}
    keys |= {"train.steps": args.steps} if args.steps else {}
    keys |= {key: json.loads(value) for key, _, value in (word.partition("=") for word in args.set)}
    recipe = recipes.load("mixture", keys)
    task = prepare(recipe, lambda line: None)
    given = draw(task, labels, seed)
    table = args.out / f"{out.name}.csv" if labels else None
    if table is not None:
        write_table(table, task, given)
    result = fit_mixture(recipe, out, given=table, device="cpu", precision=args.precision)
    if result.signal:
        raise SystemExit(f"{out} is unfinished: run the same command again")
    found = json_of(result)
    scores, probabilities = found["scores"], found["calibration"]
    return {
        "initial": scores["initial"]["accuracy"],
        "em": scores["em"]["accuracy"],
        "nmi": scores["em"]["nmi"],
        "pixels": of_pixels(task, given) if labels else float("nan"),
        "ece_before": probabilities["uncalibrated"]["ece"],
        "ece_after": probabilities["calibrated"]["ece"],
        "ece_by_chance": probabilities["calibrated"]["by_chance"],
        "temperature": probabilities["temperature"],
    }


def draw(task: ClusteringTask, labels: int, seed: int) -> Tensor:
    """The classes of some random images of each class, and -1 for all others, int64 (N,)."""
    assert task.labels is not None
    generator = torch.Generator().manual_seed(seed)
    given = torch.full_like(task.labels, -1)
    for k in range(CLASSES):
        members = (task.labels == k).nonzero().flatten()
        given[members[torch.randperm(len(members), generator=generator)[:labels]]] = k
    return given


def write_table(path: Path, task: ClusteringTask, given: Tensor) -> None:
    """The table of ``--given``; names of the classes begin with a letter, so that all of them are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["index", "label"])
        known = (given >= 0).nonzero().flatten()
        rows.writerows([int(task.index[i]), f"c{int(given[i])}"] for i in known)


def of_pixels(task: ClusteringTask, given: Tensor) -> float:
    """Accuracy of labels that are spread over principal components of the pixels."""
    assert task.labels is not None
    graph = NeighbourGraph.from_points(prepare_features(flat_pixels(task.data.train)))
    q = propagate(graph, label_seeds(given, CLASSES))
    return float((q.argmax(1) == task.labels)[given < 0].double().mean())


def print_table(source: str, limit: int, rows: dict[int, list[dict[str, float]]]) -> None:
    """Mean and standard deviation over the seeds."""
    keys = ["pixels", "initial", "em", "nmi", "ece_before", "ece_after", "ece_by_chance", "temperature"]
    heads = ["pixels alone", "initial clusters", "after EM", "NMI", "ECE before", "ECE after", "ECE by chance", "T"]
    print(f"\n{source}, at most {limit:,} images, {len(next(iter(rows.values())))} seeds")
    print(f"\n| labels of each class | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for labels, runs in rows.items():
        cells = []
        for key in keys:
            values = torch.tensor([r[key] for r in runs], dtype=torch.float64)
            deviation = f" ± {float(values.std()):.3f}" if len(values) > 1 else ""
            cells.append("-" if values.isnan().any() else f"{float(values.mean()):.3f}{deviation}")
        print(f"| {labels} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
