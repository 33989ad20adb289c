"""Distance against evaluations: a run by its own sampler, and distilled to fewer evaluations.

python benchmarks/distillation.py RUN [--steps 1,2,4] [--base-steps 20,5:karras] [--minutes 10 | --train-steps N]
    [-n N] [--seeds 0] [--set KEY=VALUE] [--times 0.2,0.35,0.5] [--device cpu] [--folder DIR] [--json FILE]

Distils RUN to each number of --steps, unless a folder has that run already, samples N images with i.i.d. labels, and
prints the Frechet distance and the kernel distance to 10,000 training images in classifier features, each with its
standard error, and the same of as many held-out images. --base-steps are steps of the base by its own sampler and
guidance, with another time grid where it is named; with --steps "" nothing is distilled. --times samples the model of
two evaluations with other times of the second one, from other noise (seed 1), by which the default was chosen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from header import header
from torch import Tensor
from training_time import Distances, cells, label_samplings, parse_settings, real_images

from fromnoise import config as recipes
from fromnoise.checkpoint import load_model
from fromnoise.config import SamplingConfig
from fromnoise.config.recipe_data import open_data
from fromnoise.model import Model
from fromnoise.pipeline import collect, sample_steps
from fromnoise.reporting import image_io
from fromnoise.training.distillation import distillation_recipe
from fromnoise.training.run import train
from fromnoise.utils.device import ComputeConfig, select_device


def sample(model: Model, config: SamplingConfig, compute: ComputeConfig, labels: Tensor | None, n: int, seed: int):
    """Samples, uint8 (n, C, H, W), with the labels (n,)."""
    compute.to_device(model.denoiser)
    return collect(sample_steps(model, config, compute, ids=torch.arange(n), seed=seed, batch=128, label=labels)).images


def main() -> None:
    """Distil, sample, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", default="1,2,4")
    parser.add_argument("--base-steps", default="20,10,5", help="steps of the base, each as K or K:GRID")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--train-steps", type=int, help="a budget in optimizer steps, in place of --minutes")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument("--times", default="", help="times of the second of two evaluations")
    parser.add_argument("--device")
    parser.add_argument("--folder", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    compute = select_device(args.device)
    base = load_model(args.run).model
    data = open_data(base.recipe, lambda line: None)
    distances = Distances.to_training_images(data, compute)
    labels = next(iter(label_samplings(base, args.n).values()))[0]
    print(header())
    print(f"{compute.describe()}; {args.run}, trained for {load_model(args.run).progress['step']:,} steps")
    print("| model | seed | evaluations | Frechet | kernel x 1000 | training |\n" + "|---" * 6 + "|")
    rows: list[dict[str, Any]] = []

    def report(name: str, seed: int, evaluations: int, images: Tensor, training: str) -> None:
        found = distances(images)
        rows.append({"model": name, "seed": seed, "evaluations": evaluations, "training": training} | found)
        print(
            f"| {name} | {seed} | {evaluations} | {cells(found, 'frechet', 2)} | {cells(found, 'kernel', 1)} "
            f"| {training} |",
            flush=True,
        )

    report("held-out images", 0, 0, real_images(data, base, args.n, None)[0], "-")
    for word in args.base_steps.split(","):
        count, _, grid = word.partition(":")
        changes: dict[str, Any] = {"sample.steps": int(count)} | ({"sample.grid": {"kind": grid}} if grid else {})
        config = recipes.change(base.recipe, changes).sample
        name = f"base, {config.sampler.kind}" + (f", grid {grid}" if grid else "")
        name += f", guidance {config.guidance:g}" if config.guidance != 1 else ""
        report(name, 0, base.network_evaluations(config), sample(base, config, compute, labels, args.n, 0), "-")
    budget = {"train.minutes": args.minutes} if args.train_steps is None else {"train.steps": args.train_steps}
    for steps in map(int, filter(None, args.steps.split(","))):
        for seed in map(int, args.seeds.split(",")):
            over = {"train.seed": seed, "train.previews": 0, "sample.count": 0} | budget | parse_settings(args.set)
            recipe = distillation_recipe(args.run, steps, over)
            folder = args.folder / "-".join([args.run.name, str(steps), str(seed), *args.set])
            done = train(recipe, folder, device=args.device)
            model = load_model(folder).model
            training = f"{done.step:,} steps, {done.seconds / 60:.1f} minutes"
            images = sample(model, model.recipe.sample, compute, labels, args.n, 0)
            image_io.save(image_io.grid(images[:100], scale=2), folder / "hundred.png")
            report("distilled", seed, steps, images, training)
            if steps == 2:
                for time in filter(None, args.times.split(",")):
                    grid = {"sample.grid": {"kind": "times", "times": (1.0, float(time))}}
                    config = recipes.change(model.recipe, grid).sample
                    report(
                        f"distilled, second at t = {time}",
                        1,
                        2,
                        sample(model, config, compute, labels, args.n, 1),
                        training,
                    )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
