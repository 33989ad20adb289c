"""Clusters against labels that were not looked at: EM, its own beginning, and the usual ways, over several seeds.

python benchmarks/cluster.py [SET ...] [--seeds S] [-n N] [--minutes M | --steps K] [--start WAY] [--out DIR]
                             [--baselines] [--set KEY=VALUE ...]

Every run is kept in --out and goes on, or is read again, when the same command is given. The tables are at the end.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from header import header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.clustering.baselines import KMEANS_RESTARTS, flat_pixels, gaussian_mixture, principal_components
from fromnoise.clustering.encoder import EncoderOutput
from fromnoise.clustering.fit import Task, prepare, sort
from fromnoise.clustering.init import train_encoder
from fromnoise.clustering.scores import Scores
from fromnoise.utils.device import select_device
from fromnoise.utils.files import write_atomic
from fromnoise.utils.kmeans import kmeans

CLASSES = 10


def main() -> None:
    """Measure what is not measured yet, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["digits", "mnist", "fashion_mnist"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--start", default="encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-cluster"))
    parser.add_argument("--baselines", action="store_true", help="these alone")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe")
    args = parser.parse_args()
    print(header(), flush=True)
    for spec in args.sets:
        found: dict[str, list[Scores]] = {}
        for seed in range(args.seeds):
            for name, scores in measured(args, spec, seed).items():
                found.setdefault(name, []).append(scores)
        show(spec, args.n, found)


def measured(args: argparse.Namespace, spec: str, seed: int) -> dict[str, Scores]:
    """All ways on one set with one seed, from the file where they are kept if they are."""
    asked = {"data.source": spec, "train.seed": seed, "clustering.count": CLASSES, "clustering.start": args.start}
    asked |= {"train.minutes": args.minutes} if args.minutes else {}
    asked |= {"train.steps": args.steps} if args.steps else {}
    asked |= {key: json.loads(value) for key, _, value in (word.partition("=") for word in args.set)}
    recipe = recipes.load("mixture", asked)
    task = prepare(recipe, args.n, lambda line: None)
    seen = functools.cache(
        lambda: train_encoder(task.data.train, recipe.clustering, select_device("cpu", "fp32"), seed)
    )
    own = args.start == "encoder"
    ways: dict[str, Callable[[], dict[str, Scores]]] = {"baselines": lambda: baselines(task, seed)}
    if not args.baselines:
        if own:
            ways["features"] = lambda: features(task, seed, seen())
        folder = args.out / f"{spec}-{args.start}-{seed}"
        ways[args.start] = lambda: mixture(recipe, folder, args.n, seen() if own else None)
    out: dict[str, Scores] = {}
    for name, way in ways.items():
        path = args.out / f"{spec}-{name}-{seed}.json"
        if not path.exists():
            begun = time.perf_counter()
            kept = {k: s.__dict__ for k, s in way().items()}
            kept["seconds"] = {"seconds": time.perf_counter() - begun}
            write_atomic(path, json.dumps(kept, indent=1).encode())
        kept = json.loads(path.read_text())
        print(f"{spec} seed {seed}: {name} took {kept.pop('seconds')['seconds']:.0f} s", flush=True)
        out |= {k: Scores(**s) for k, s in kept.items()}
    return out


def baselines(task: Task, seed: int) -> dict[str, Scores]:
    """K-means on pixels; k-means and a mixture of Gaussians on 50 principal components."""
    pixels = flat_pixels(task.data.train)
    reduced = principal_components(pixels)
    return {
        "k-means, pixels": scored(kmeans(pixels, CLASSES, seed, KMEANS_RESTARTS).labels, task),
        "k-means, PCA": scored(kmeans(reduced, CLASSES, seed, KMEANS_RESTARTS).labels, task),
        "Gaussian mixture, PCA": scored(gaussian_mixture(reduced, CLASSES, seed), task),
    }


def features(task: Task, seed: int, seen: EncoderOutput) -> dict[str, Scores]:
    """K-means and a mixture of Gaussians on the features of the encoder that EM begins with."""
    return {
        "k-means, encoder": scored(kmeans(seen.features, CLASSES, seed, KMEANS_RESTARTS).labels, task),
        "Gaussian mixture, encoder": scored(
            gaussian_mixture(principal_components(seen.features, 20), CLASSES, seed), task
        ),
    }


def mixture(recipe: recipes.Recipe, out: Path, limit: int, seen: EncoderOutput | None) -> dict[str, Scores]:
    """EM, and what it began with."""
    found = sort(recipe, out, limit=limit, first=seen.q if seen else None, device="cpu", precision="fp32")
    if found.signal:
        raise SystemExit(f"{out} is not finished: give the same command again")
    start = f"first sorting, {recipe.clustering.start}"
    return {start: scored(found.start, found.task), f"EM from {start}": scored(found.q.argmax(1), found.task)}


def scored(clusters: Tensor, task: Task) -> Scores:
    """Against the labels."""
    assert task.labels is not None
    return Scores.of(clusters, task.labels)


def show(spec: str, limit: int, found: dict[str, list[Scores]]) -> None:
    """Mean and standard deviation over the seeds."""
    print(f"\n{spec}, at most {limit:,} images: accuracy, NMI, ARI")
    for name, each in found.items():
        cells = []
        for measure in ("accuracy", "nmi", "ari"):
            values = torch.tensor([getattr(s, measure) for s in each], dtype=torch.float64)
            spread = f"{float(values.std()):.3f}" if len(values) > 1 else "-"
            cells.append(f"{float(values.mean()):.3f} +- {spread}")
        print(f"  {name:30} n {len(each)}  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
