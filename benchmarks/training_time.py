"""Distance against training time, for recipes, budgets and seeds.

python benchmarks/training_time.py [--recipes fast,...] [--data fashion_mnist] [--minutes 1,3,10] [--seeds 0,1,2] [-n N]
    [--set KEY=VALUE] [--sample "KEY=VALUE ..."] [--device cpu] [--folder DIR] [--json FILE]

Trains the runs that do not exist, samples N images with the sampling config of the recipe, and prints the Frechet
distance and the kernel distance to the training images in classifier features, each with its standard error, and the
same for as many held-out images. --sample, which may be repeated, changes the sampling: any key of the recipe's section
sample, "n=128" for fewer samples, "weak=1.5" for autoguidance with that scale by the run of the first budget.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from header import header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.checkpoint import load_model
from fromnoise.config import change
from fromnoise.data import Data, load, shuffled_indices
from fromnoise.diffusion import Autoguidance, Unconditional
from fromnoise.evaluation.features.trained import ClassifierFeatures, classifier_features
from fromnoise.evaluation.metrics.frechet import jackknifed_frechet
from fromnoise.evaluation.metrics.kid import KernelReference
from fromnoise.evaluation.statistics import Moments, split_moments
from fromnoise.model import Wrapper, no_wrapper
from fromnoise.pipeline import collect, sample_steps
from fromnoise.reporting import image_io
from fromnoise.training.run import train
from fromnoise.utils.device import ComputeConfig, select_device


def parse_value(text: str) -> Any:
    """A JSON value, or the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """``["steps=20"]`` as values by key."""
    return {key: parse_value(text) for key, _, text in (pair.partition("=") for pair in pairs)}


@dataclass(frozen=True)
class Distances:
    """Distances to training images in classifier features."""

    classifier: ClassifierFeatures
    moments: Moments
    kernel: KernelReference

    @staticmethod
    def to_training_images(data: Data, compute: ComputeConfig) -> Distances:
        """Use 10,000 training images."""
        classifier = classifier_features(data, compute=compute)
        chosen = torch.as_tensor(shuffled_indices(len(data.train), 0, range(min(10_000, len(data.train)))))
        real = classifier.features(data.train.get(chosen))
        return Distances(classifier, Moments.of(real), KernelReference(real))

    def __call__(self, images: Tensor) -> dict[str, float]:
        """Both distances, each with its standard error."""
        features = self.classifier.features(images)
        frechet = jackknifed_frechet(split_moments(features), self.moments)
        kernel = self.kernel.distance(features)
        return {
            "frechet": frechet.value,
            "frechet_error": frechet.error,
            "kernel": 1000 * kernel.value,
            "kernel_error": 1000 * kernel.error,
        }


def sample(folder: Path, weak: Path, changes: str, compute: ComputeConfig, count: int) -> tuple[Tensor, float]:
    """Samples of a run with ``changes`` to its sampling config, and images per second."""
    settings = parse_settings(changes.split())
    count, scale = settings.pop("n", count), settings.pop("weak", None)
    model = load_model(folder).model
    compute.to_device(model.denoiser)
    wrap: Wrapper = no_wrapper
    if scale is not None:
        other = load_model(weak).model.denoiser
        compute.to_device(other)
        guide = Unconditional(other) if other.pseudo_labels is None else other  # runs of one seed share their clusters
        wrap = lambda denoise: Autoguidance(denoise, guide, scale)  # noqa: E731
    config = change(model.recipe, {f"sample.{key}": v for key, v in settings.items()}).sample
    label = "all" if model.dataset_info.class_names is not None else None
    start = time.perf_counter()
    steps = sample_steps(model, config, compute, ids=torch.arange(count), batch=128, wrap=wrap, label=label)
    images = collect(steps).images
    return images, count / (time.perf_counter() - start)


def main() -> None:
    """Train, sample, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="fast")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--minutes", default="1,3,10", help="0 is the recipe's own budget")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument(
        "--sample", action="append", default=[], metavar="KEY=VALUE ...", help="change the sampling; one row each"
    )
    parser.add_argument("--device")
    parser.add_argument("--folder", type=Path, default=Path("runs/training-time"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    compute = select_device(args.device)
    data = load(args.data)
    distances = Distances.to_training_images(data, compute)
    chosen = torch.as_tensor(shuffled_indices(len(data.held_out), 0, range(min(args.n, len(data.held_out)))))
    real = distances(data.held_out.get(chosen))
    print(header())
    print(compute.describe())
    print(
        f"{args.data}, n = {args.n}; classifier accuracy {distances.classifier.accuracy:.2%}; held-out images: Frechet "
        f"{real['frechet']:.2f}, kernel x 1000 {real['kernel']:.2f} +- {real['kernel_error']:.2f}"
    )
    print("| recipe | minutes | seed | steps | sampling | Frechet | kernel x 1000 | images/s |\n" + "|---" * 8 + "|")
    rows: list[dict[str, Any]] = []
    recipe_changes = parse_settings(args.set)
    budgets = [float(m) for m in args.minutes.split(",")]
    for name in args.recipes.split(","):
        for minutes in budgets:
            for seed in map(int, args.seeds.split(",")):

                def folder(budget: float, of: str = f"{Path(name).stem}-{args.data}", seed: int = seed) -> Path:
                    return args.folder / "-".join([of, f"{budget:g}", str(seed), *args.set])

                budget = {"train.minutes": minutes} if minutes else {}
                over = {"data.source": args.data, "train.seed": seed, "sample.count": 0} | budget
                done = train(recipes.load(name, over | recipe_changes), folder(minutes), device=args.device)
                for changes in args.sample or [""]:
                    images, rate = sample(folder(minutes), folder(budgets[0]), changes, compute, args.n)
                    image_io.save(image_io.grid(images[:100], scale=2), folder(minutes) / f"samples {changes}.png")
                    found = distances(images)
                    row = {"recipe": name, "minutes": minutes, "seed": seed, "steps": done.step, "rate": rate}
                    rows.append(row | {"sampling": changes} | found)
                    print(
                        f"| {name} | {minutes:g} | {seed} | {done.step:,} | {changes or 'recipe'} "
                        f"| {found['frechet']:.2f} +- {found['frechet_error']:.2f} "
                        f"| {found['kernel']:.1f} +- {found['kernel_error']:.1f} | {rate:.3g} |",
                        flush=True,
                    )
            for changes in args.sample or [""]:
                key = (name, minutes, changes)
                values = [r["frechet"] for r in rows if (r["recipe"], r["minutes"], r["sampling"]) == key]
                if len(values) > 1:
                    print(
                        f"{name}, {minutes:g} minutes, {changes or 'recipe'}: Frechet {statistics.mean(values):.2f}, "
                        f"sd over seeds {statistics.stdev(values):.2f}"
                    )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
