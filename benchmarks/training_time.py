"""Distance against training time, for recipes, budgets and seeds.

python benchmarks/training_time.py [--recipes fast,...] [--data fashion_mnist] [--minutes 1,3,10] [--seeds 0,1,2] [-n N]
    [--set KEY=VALUE] [--sample "KEY=VALUE ..."] [--device cpu] [--folder DIR] [--json FILE]

Trains the runs that do not exist, samples N images with the sampling config of the recipe, and prints the Frechet
distance and the kernel distance to the training images in classifier features, each with its standard error, and the
same for as many held-out images. Models with pseudo-labels are sampled with i.i.d. and with stratified ones, each
beside held-out images sampled alike. --sample, which may be repeated, changes the sampling: any key of the recipe's
section sample, "n=128" for fewer samples, "weak=1.5" for autoguidance with that scale by the run of the first budget.
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
from fromnoise.data import Data, load, shuffled_indices, to_float
from fromnoise.diffusion import Autoguidance, Unconditional
from fromnoise.evaluation.features.trained import ClassifierFeatures, classifier_features
from fromnoise.evaluation.metrics.frechet import frechet_distance, frechet_error
from fromnoise.evaluation.metrics.kid import KernelReference
from fromnoise.evaluation.sources import RealImages
from fromnoise.evaluation.statistics import Moments
from fromnoise.model import Model, Wrapper, no_wrapper
from fromnoise.pipeline import collect, sample_steps
from fromnoise.reporting import image_io
from fromnoise.training.run import train
from fromnoise.utils.device import ComputeConfig, select_device

LABELS = ("i.i.d.", "stratified")


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

    def __call__(self, images: Tensor, strata: Tensor | None = None) -> dict[str, float]:
        """Both distances, each with its standard error over sets of images with these strata."""
        features = self.classifier.features(images)
        value = frechet_distance(Moments.of(features), self.moments)
        kernel = self.kernel.distance(features, strata)
        return {
            "frechet": value,
            "frechet_error": frechet_error(features, Moments.of(features), self.moments, strata),
            "kernel": 1000 * kernel.value,
            "kernel_error": 1000 * kernel.error,
        }


def sample(
    model: Model, weak: Path, changes: str, compute: ComputeConfig, count: int, labels: Tensor | None
) -> tuple[Tensor, float]:
    """Samples of a model with ``changes`` to its sampling config, and images per second.

    Args:
        model: that samples.
        weak: the run of the weaker model of autoguidance.
        changes: as of --sample.
        compute: device.
        count: number of samples.
        labels: pseudo-labels or classes, (count,); None for a model without.
    """
    settings = parse_settings(changes.split())
    settings.pop("n", None)
    scale = settings.pop("weak", None)
    compute.to_device(model.denoiser)
    wrap: Wrapper = no_wrapper
    if scale is not None:
        other = load_model(weak).model.denoiser
        compute.to_device(other)
        guide = Unconditional(other) if other.pseudo_labels is None else other  # runs of one seed share their clusters
        wrap = lambda denoise: Autoguidance(denoise, guide, scale)  # noqa: E731
    config = change(model.recipe, {f"sample.{key}": v for key, v in settings.items()}).sample
    start = time.perf_counter()
    steps = sample_steps(model, config, compute, ids=torch.arange(count), batch=128, wrap=wrap, label=labels)
    images = collect(steps).images
    return images, count / (time.perf_counter() - start)


def cells(row: dict[str, float], key: str, decimals: int) -> str:
    """A distance with its standard error."""
    return f"{row[key]:.{decimals}f} +- {row[key + '_error']:.{decimals}f}"


def label_samplings(model: Model, count: int) -> dict[str, tuple[Tensor | None, bool]]:
    """By name: the labels of ``count`` samples, (count,), and whether they are stratified."""
    ids, classes = torch.arange(count), model.dataset_info.class_names
    if model.denoiser.pseudo_labels is not None:
        return {name: (model.default_labels(ids, 0, name == "stratified"), name == "stratified") for name in LABELS}
    return {"-": (ids % len(classes) if classes else None, classes is not None)}


def real_images(data: Data, model: Model, count: int, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Held-out images in the same numbers of each pseudo-label or class, and these; labels None: an i.i.d. sample."""
    held_out, pseudo_labels = data.held_out, model.denoiser.pseudo_labels
    if labels is None:
        source = RealImages("real", held_out, min(count, len(held_out)))
    else:
        groups = held_out.labels
        if pseudo_labels is not None:
            groups = pseudo_labels.assign(to_float(held_out.get(torch.arange(len(held_out)))))
        assert groups is not None
        sizes = labels.bincount(minlength=int(groups.max()) + 1)
        source = RealImages("real", held_out, groups=groups, sizes=sizes)
    return torch.cat(list(source.batches())), source.strata


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
    print(header())
    print(compute.describe())
    print(f"{args.data}; classifier accuracy {distances.classifier.accuracy:.2%}")
    columns = "recipe | minutes | seed | steps | sampling | n | labels | Frechet | real_vs_real | kernel x 1000"
    print(f"| {columns} | real_vs_real | images/s |\n" + "|---" * 12 + "|")
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
                model = load_model(folder(minutes)).model
                for changes in args.sample or [""]:
                    n = int(parse_settings(changes.split()).get("n", args.n))
                    for labels, (values, stratified) in label_samplings(model, n).items():
                        weak = folder(budgets[0])
                        images, rate = sample(model, weak, changes, compute, n, values)
                        image_io.save(
                            image_io.grid(images[:100], scale=2), folder(minutes) / f"samples {changes} {labels}.png"
                        )
                        found = distances(images, values if stratified else None)
                        real = distances(*real_images(data, model, n, values if stratified else None))
                        row = {"recipe": name, "minutes": minutes, "seed": seed, "steps": done.step, "rate": rate}
                        row |= {"sampling": changes, "labels": labels, "n": n, "real_vs_real": real} | found
                        rows.append(row)
                        print(
                            f"| {name} | {minutes:g} | {seed} | {done.step:,} | {changes or 'recipe'} | {n:,} "
                            f"| {labels} | {cells(found, 'frechet', 2)} | {cells(real, 'frechet', 2)} "
                            f"| {cells(found, 'kernel', 1)} | {cells(real, 'kernel', 1)} | {rate:.3g} |",
                            flush=True,
                        )
            ran = [r for r in rows if (r["recipe"], r["minutes"]) == (name, minutes)]
            for changes, labels in dict.fromkeys((r["sampling"], r["labels"]) for r in ran):
                values = [r["frechet"] for r in ran if (r["sampling"], r["labels"]) == (changes, labels)]
                if len(values) > 1:
                    print(
                        f"{name}, {minutes:g} minutes, {changes or 'recipe'}, labels {labels}: Frechet "
                        f"{statistics.mean(values):.2f}, sd over seeds {statistics.stdev(values):.2f}"
                    )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
