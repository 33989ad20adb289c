"""Clustering accuracy on labelled data: EM, its initial clusters and classical baselines, over several seeds.

python benchmarks/cluster.py [SET ...] [--seeds S] [-n N] [--minutes M | --steps K] [--init METHOD] [--out DIR]
                             [--baselines] [--controls] [--uneven R] [--set KEY=VALUE ...]

--controls adds what tells the parts of EM apart: EM without the encoder's likelihood in the E-step (a bound, then),
without split-and-merge moves, without both, and the encoder's own clusters after --encoder-factor times its steps.
--uneven R keeps fewer images of each class, evenly in the log, so that the largest has R times as many as the smallest.

Runs are kept in --out: the same command again resumes unfinished runs and reads the scores of finished ones. The tables
are printed at the end.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from header import header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.clustering.baselines import KMEANS_RESTARTS, flat_pixels, gaussian_mixture, principal_components
from fromnoise.clustering.encoder import EncoderOutput
from fromnoise.clustering.fit import fit_mixture
from fromnoise.clustering.init import train_encoder
from fromnoise.clustering.scores import ClusterScores
from fromnoise.clustering.task import ClusteringTask, prepare
from fromnoise.data import load
from fromnoise.utils.device import select_device
from fromnoise.utils.files import write_atomic
from fromnoise.utils.kmeans import kmeans

CLASSES = 10


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["digits", "mnist", "fashion_mnist"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--init", default="encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-cluster"))
    parser.add_argument("--baselines", action="store_true", help="measure the baselines only")
    parser.add_argument("--controls", action="store_true", help="also measure the controls")
    parser.add_argument(
        "--encoder-factor", type=int, default=4, help="steps of the control's encoder, in those of EM's"
    )
    parser.add_argument("--uneven", type=float, metavar="R", help="ratio of the largest to the smallest class")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the recipe")
    args = parser.parse_args()
    print(header(), flush=True)
    for spec in [uneven_copy(args.out, spec, args.uneven) if args.uneven else spec for spec in args.sets]:
        scores: dict[str, list[ClusterScores]] = {}
        for seed in range(args.seeds):
            for name, found in measure(args, spec, seed).items():
                scores.setdefault(name, []).append(found)
        print_table(spec, args.n, scores)


def measure(args: argparse.Namespace, spec: str, seed: int) -> dict[str, ClusterScores]:
    """Scores of all methods on one data set with one seed; those in the cache are read."""
    keys = {"data.source": spec, "train.seed": seed, "clustering.count": CLASSES, "clustering.init": args.init}
    keys |= {"train.minutes": args.minutes} if args.minutes else {}
    keys |= {"train.steps": args.steps} if args.steps else {}
    keys |= {key: json.loads(value) for key, _, value in (word.partition("=") for word in args.set)}
    recipe = recipes.load("mixture", keys)
    task = prepare(recipe, args.n, lambda line: None)
    cpu = select_device("cpu", "fp32")
    encoder = functools.cache(lambda: train_encoder(task.data.train, recipe.clustering, cpu, seed))
    with_encoder = args.init == "encoder"
    methods: dict[str, Callable[[], dict[str, ClusterScores]]] = {"baselines": lambda: pixel_baselines(task, seed)}
    if not args.baselines:
        if with_encoder:
            methods["features"] = lambda: feature_baselines(task, seed, encoder())
        initial = encoder if with_encoder else lambda: None
        methods[args.init] = lambda: em(recipe, args.out / f"{name_of(spec)}-{args.init}-{seed}", args.n, initial())
        if args.controls:
            methods |= control_methods(args, spec, seed, keys, initial)
            longer = recipe.clustering.model_copy(
                update={"encoder_steps": recipe.clustering.encoder_steps * args.encoder_factor}
            )
            methods["longer-encoder"] = lambda: {
                f"encoder alone, {args.encoder_factor} times its steps": score(
                    train_encoder(task.data.train, longer, cpu, seed).q.argmax(1), task
                )
            }
    scores: dict[str, ClusterScores] = {}
    for name, method in methods.items():
        path = args.out / f"{name_of(spec)}-{name}-{seed}.json"
        if not path.exists():
            start = time.perf_counter()
            results = {k: s.__dict__ for k, s in method().items()}
            results["seconds"] = {"seconds": time.perf_counter() - start}
            write_atomic(path, json.dumps(results, indent=1).encode())
        results = json.loads(path.read_text())
        print(f"{spec} seed {seed}: {name} took {results.pop('seconds')['seconds']:.0f} s", flush=True)
        scores |= {k: ClusterScores(**s) for k, s in results.items()}
    return scores


CONTROLS = {
    "encoder weight 0": {"clustering.encoder_weight": 0.0},
    "no split-merge": {"clustering.split_merge": 0.0},
    "encoder weight 0, no split-merge": {"clustering.encoder_weight": 0.0, "clustering.split_merge": 0.0},
}


def control_methods(
    args: argparse.Namespace,
    spec: str,
    seed: int,
    keys: dict[str, Any],
    start: Callable[[], EncoderOutput | None],
) -> dict[str, Callable[[], dict[str, ClusterScores]]]:
    """EM with parts of it left out, from the same initial clusters."""

    def control(label: str) -> dict[str, ClusterScores]:
        recipe = recipes.load("mixture", keys | CONTROLS[label])
        folder = args.out / f"{name_of(spec)}-{args.init}-{label.replace(' ', '-').replace(',', '')}-{seed}"
        *_, final = em(recipe, folder, args.n, start()).values()
        return {f"EM, {label}": final}

    return {label.replace(" ", "-").replace(",", ""): functools.partial(control, label) for label in CONTROLS}


def name_of(spec: str) -> str:
    """A data SPEC as part of a file name."""
    return Path(spec).stem


def uneven_copy(out: Path, spec: str, ratio: float) -> str:
    """An .npz with all training images of the first class and fewer of each next one; returns its path."""
    path = out / f"{name_of(spec)}-uneven-{ratio:g}.npz"
    if not path.exists():
        data = load(spec, log=lambda line: None)
        labels = data.train.labels
        assert labels is not None
        kept = []
        for c in range(CLASSES):
            members = (labels == c).nonzero().flatten()
            kept.append(members[: max(1, round(len(members) * ratio ** (-c / (CLASSES - 1))))])
        chosen = torch.cat(kept)
        out.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=data.train.get(chosen).numpy(), labels=labels[chosen].numpy())
    return str(path)


def pixel_baselines(task: ClusteringTask, seed: int) -> dict[str, ClusterScores]:
    """K-means on pixels; k-means and a mixture of Gaussians on 50 principal components."""
    pixels = flat_pixels(task.data.train)
    reduced = principal_components(pixels)
    return {
        "k-means, pixels": score(kmeans(pixels, CLASSES, seed, KMEANS_RESTARTS).labels, task),
        "k-means, PCA": score(kmeans(reduced, CLASSES, seed, KMEANS_RESTARTS).labels, task),
        "Gaussian mixture, PCA": score(gaussian_mixture(reduced, CLASSES, seed), task),
    }


def feature_baselines(task: ClusteringTask, seed: int, encoder: EncoderOutput) -> dict[str, ClusterScores]:
    """K-means and a mixture of Gaussians on the features of the encoder that initializes EM."""
    reduced = principal_components(encoder.features, 20)
    return {
        "k-means, encoder": score(kmeans(encoder.features, CLASSES, seed, KMEANS_RESTARTS).labels, task),
        "Gaussian mixture, encoder": score(gaussian_mixture(reduced, CLASSES, seed), task),
    }


def em(recipe: recipes.Recipe, out: Path, limit: int, encoder: EncoderOutput | None) -> dict[str, ClusterScores]:
    """EM and its initial clusters."""
    init = encoder.q if encoder else None
    recipe = recipe.model_copy(update={"clustering": recipe.clustering.model_copy(update={"images": limit})})
    result = fit_mixture(recipe, out, init=init, device="cpu", precision="fp32")
    if result.signal:
        raise SystemExit(f"{out} is unfinished: run the same command again")
    name = f"initial clusters, {recipe.clustering.init}"
    return {name: score(result.initial, result.task), f"EM from {name}": score(result.q.argmax(1), result.task)}


def score(clusters: Tensor, task: ClusteringTask) -> ClusterScores:
    """Agreement with the labels."""
    assert task.labels is not None
    return ClusterScores.from_labels(clusters, task.labels)


def print_table(spec: str, limit: int, scores: dict[str, list[ClusterScores]]) -> None:
    """Mean and standard deviation over the seeds."""
    print(f"\n{spec}, at most {limit:,} images: accuracy, NMI, ARI")
    for name, runs in scores.items():
        cells = []
        for metric in ("accuracy", "nmi", "ari"):
            values = torch.tensor([getattr(s, metric) for s in runs], dtype=torch.float64)
            deviation = f"{float(values.std()):.3f}" if len(values) > 1 else "-"
            cells.append(f"{float(values.mean()):.3f} +- {deviation}")
        print(f"  {name:32} n {len(runs)}  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
