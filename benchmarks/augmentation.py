"""Copies of training images and distance to held-out ones, with and without augmentation, for a small training set.

python benchmarks/augmentation.py [--data fashion_mnist] [--images 200] [--size S] [--steps N]
    [--probabilities 0,0.12] [--seeds 0,1] [-n N] [--guidance G] [--set KEY=VALUE]
    [--folder DIR] [--json FILE]

Trains a small U-Net on some of the training images by the same steps with each probability of augmentation (0 is none),
samples N images, and prints the rate of near copies of the training images (nearest distance below half of the mean
distance to the next 50, in pixels), the same rate of held-out images, and the Frechet and kernel distance to held-out
images in classifier features of the whole set, beside those of the training images that the models saw. With --size the
models are trained on smaller images, and all images are enlarged again for the features. Runs that exist are not
trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from header import header
from torch import Tensor

from fromnoise.config import load as load_recipe
from fromnoise.data import load, shuffled_indices
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.features.trained import ClassifierFeatures, classifier_features
from fromnoise.evaluation.metrics.frechet import frechet_distance, frechet_error
from fromnoise.evaluation.metrics.kid import KernelReference
from fromnoise.evaluation.metrics.nearest import NearestNeighbours
from fromnoise.evaluation.statistics import Moments
from fromnoise.reporting import image_io
from fromnoise.training.trainer import Trainer
from fromnoise.utils.device import select_device

NETWORK = {
    "network.width": 32,
    "network.multipliers": [1, 2],
    "network.attention_resolutions": [],
    "train.autosize": [],
    "train.minutes": None,
    "train.batch": 32,
    "train.evaluations": 4,
    "train.previews": 0,
    "data.pseudo_labels": 0,
    "sample.count": 0,
    "ema.snapshots": 0,
}
"""Values in place of those of recipe ``fast``: an unconditional network that is small for 28x28 pixels."""


def near_copies(images: Tensor, training: Tensor) -> Estimate:
    """Rate of near copies of training images, uint8 (N, C, H, W) each."""
    channels, height, width = training.shape[1:]
    pixels = PixelFeatures((channels, height, width))
    found = NearestNeighbours(pixels.features(images))
    found.add_reference(pixels.features(training), 0)
    return found.copy_rate


def resized(images: Tensor, side: int) -> Tensor:
    """Images of another size, uint8 (N, C, side, side)."""
    found = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return found.round().clamp(0, 255).byte()


class HeldOut:
    """Distances to held-out images in classifier features."""

    def __init__(self, images: Tensor, classifier: ClassifierFeatures, side: int) -> None:
        self.classifier, self.side = classifier, side
        features = classifier.features(resized(images, side))
        self.moments, self.kernel = Moments.of(features), KernelReference(features)

    def __call__(self, images: Tensor) -> dict[str, float]:
        """Both distances with their standard errors; the kernel distance times 1000."""
        features = self.classifier.features(resized(images, self.side))
        kernel = self.kernel.distance(features, None)
        return {
            "frechet": frechet_distance(Moments.of(features), self.moments),
            "frechet_error": frechet_error(features, Moments.of(features), self.moments, None),
            "kernel": 1000 * kernel.value,
            "kernel_error": 1000 * kernel.error,
        }


def cells(row: dict[str, Any]) -> str:
    """Rate of copies and both distances, with their standard errors."""
    rate = f"{row['copies']:.1%} +- {row['copies_error']:.1%}"
    distances = [f"{row[k]:.{d}f} +- {row[f'{k}_error']:.{d}f}" for k, d in (("frechet", 2), ("kernel", 1))]
    return " | ".join([rate, *distances])


def main() -> None:
    """Train, sample, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, help="side of the training images; default: that of the set")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--probabilities", default="0,0.12")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--guidance", type=float, default=1.0, help="guidance scale of the samples; 1 is none")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument("--device")
    parser.add_argument("--folder", type=Path, default=Path("runs/augmentation"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    data, compute = load(args.data, log=lambda line: None), select_device(args.device)
    # the trainer holds out a part of what it is given: 1/21 of 210 images for 200
    given = args.images + max(1, round(args.images / 20))
    chosen = torch.as_tensor(shuffled_indices(len(data.train), 0, range(given)))
    side = args.size or data.shape[1]
    images = resized(data.train.get(chosen), side)
    held_out = resized(data.held_out.get(torch.arange(min(5000, len(data.held_out)))), side)
    distances = HeldOut(held_out, classifier_features(data, compute=compute), data.shape[1])
    print(header())
    changes = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in args.set)}
    print(
        f"{args.data}, {args.images} training images of {side}x{side}, {args.steps:,} steps of 32, {args.n} samples\n"
    )
    print("| probability | seed | near copies | Frechet | kernel x 1000 | held-out loss | minutes |")
    print("|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for probability in map(float, args.probabilities.split(",")):
        for seed in map(int, args.seeds.split(",")):
            values = NETWORK | {"train.steps": args.steps, "train.seed": seed, "data.holdout": 1 - args.images / given}
            if probability:
                values |= {"data.augmentation": {"kind": "edm", "probability": probability}}
            out = args.folder / f"{args.data}-{args.images}-{side}-{args.steps}-{probability:g}-{seed}"
            start = time.monotonic()
            trainer = Trainer(load_recipe("fast", values | changes), images, out=out, device=args.device)
            pipeline = trainer.run()
            training = trainer.data.train.get(torch.arange(len(trainer.data.train)))
            assert len(training) == args.images
            minutes = (time.monotonic() - start) / 60
            sampled = torch.as_tensor(pipeline.sample(args.n, steps=20, seed=seed, guidance=args.guidance))
            image_io.save(image_io.grid(sampled[:100], scale=2), out / "samples.png")
            rate = near_copies(sampled, training)
            row = {"probability": probability, "seed": seed, "copies": rate.value, "copies_error": rate.error}
            reports = [json.loads(line) for line in (out / "reports.jsonl").read_text().splitlines()]
            losses = [r["held_out_loss"] for r in reports if r.get("held_out_loss") is not None]
            row |= distances(sampled) | {"held_out_loss": losses[-1], "minutes": minutes}
            rows.append(row)
            print(f"| {probability:g} | {seed} | {cells(row)} | {losses[-1]:.4f} | {minutes:.1f} |", flush=True)
    fresh = resized(data.held_out.get(torch.arange(len(data.held_out) - args.n, len(data.held_out))), side)
    rate = near_copies(fresh, training)
    others = {"held-out images": {"copies": rate.value, "copies_error": rate.error} | distances(fresh)}
    others["the training images"] = {"copies": 1.0, "copies_error": 0.0} | distances(training)
    for name, row in others.items():
        print(f"| {name} | | {cells(row)} | | |")
    for probability in dict.fromkeys(r["probability"] for r in rows):
        mine = [r for r in rows if r["probability"] == probability]
        means = {key: statistics.mean(r[key] for r in mine) for key in ("copies", "frechet", "kernel")}
        print(f"mean at {probability:g}: {means['copies']:.1%}, {means['frechet']:.2f}, {means['kernel']:.1f}")
    if args.json:
        args.json.write_text(json.dumps({"runs": rows, "others": others}, indent=1))


if __name__ == "__main__":
    main()
