"""Distance against the number of evaluations, with the recipe's sampler and with tuned steps.

python benchmarks/tuned_steps.py RUN [RUN ...] [--steps 5,6,8,10,20] [--untuned 40] [--guidance G] [-n N] [--seeds 0]
    [--iterations I] [--batch B] [--device cpu] [--json FILE]

Tunes each run for each number of steps, in memory, and prints Frechet and kernel distance of N samples to the training
images in features of a classifier, which tuning does not use; of i.i.d. and stratified pseudo-labels (as
training_time.py), each with the duration of tuning. --seeds are those of the samples; the noise of tuning has another.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from header import header
from training_time import Distances, cells, label_samplings, real_images

from fromnoise.checkpoint import load_model
from fromnoise.config import change
from fromnoise.config.recipe_data import open_data
from fromnoise.data import Data
from fromnoise.diffusion.samplers import TunedSteps
from fromnoise.model import Model
from fromnoise.pipeline import collect, sample_steps
from fromnoise.tuning import last_report, tune
from fromnoise.utils.device import ComputeConfig, select_device


@dataclass(frozen=True)
class Bench:
    """A run, and what its samples are compared with."""

    model: Model
    data: Data
    distances: Distances
    compute: ComputeConfig
    count: int

    def rows(self, steps: int, seed: int, tuned: TunedSteps | None) -> Iterator[dict[str, Any]]:
        """Distances of samples in so many steps, a row for each way to choose the labels."""
        model = replace(self.model, tuned={} if tuned is None else {steps: tuned})
        config, ids = change(model.recipe, {"sample.steps": steps}).sample, torch.arange(self.count)
        for name, (labels, stratified) in label_samplings(model, self.count).items():
            start = time.perf_counter()
            images = collect(
                sample_steps(model, config, self.compute, ids=ids, seed=seed, batch=128, label=labels)
            ).images
            row = {"steps": steps, "tuned": tuned is not None, "labels": name, "seed": seed}
            row |= {"rate": self.count / (time.perf_counter() - start)}
            strata = labels if stratified else None
            real = self.distances(*real_images(self.data, model, self.count, strata))
            yield row | {"real": real} | self.distances(images, strata)


def printed(
    bench: Bench, run: Path, steps: int, seeds: str, tuned: TunedSteps | None, cost: dict[str, float]
) -> list[dict[str, Any]]:
    """The rows of a number of steps, which are printed."""
    found = []
    for seed in map(int, seeds.split(",")):
        for row in bench.rows(steps, seed, tuned):
            found.append({"run": str(run)} | cost | row)
            spent = f"{cost['seconds']:.0f}" if cost else "-"
            print(
                f"| {steps} | {'yes' if tuned else 'no'} | {spent} | {row['labels']} | {seed} "
                f"| {cells(row, 'frechet', 2)} | {cells(row['real'], 'frechet', 2)} "
                f"| {cells(row, 'kernel', 1)} | {row['rate']:.3g} |",
                flush=True,
            )
    return found


def main() -> None:
    """Tune, sample, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--steps", default="5,6,8,10,20", help="numbers of steps to tune")
    parser.add_argument("--untuned", default="40", help="further numbers of steps, without tuning")
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--guidance", type=float, help="guidance scale in place of the recipe's; 1 is none")
    parser.add_argument("--seeds", default="0", help="seeds of the samples")
    parser.add_argument("--iterations", type=int, default=160)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    compute = select_device(args.device)
    print(header())
    print(compute.describe())
    rows: list[dict[str, Any]] = []
    for run in args.runs:
        model = load_model(run).model
        if args.guidance is not None:
            model = replace(model, recipe=change(model.recipe, {"sample.guidance": args.guidance}))
        data = open_data(model.recipe, lambda line: None)
        compute.to_device(model.denoiser)
        distances = Distances.to_training_images(data, compute)
        print(f"\n{run}: {model.recipe.data.source}; classifier accuracy {distances.classifier.accuracy:.2%}\n")
        columns = "steps | tuned | seconds of tuning | labels | seed | Frechet | real_vs_real | kernel x 1000"
        print(f"| {columns} | images/s |\n" + "|---" * 9 + "|")

        bench = Bench(model, data, distances, compute, args.n)
        for steps in map(int, args.steps.split(",")):
            rows += printed(bench, run, steps, args.seeds, None, {})
            start, cpu = time.perf_counter(), time.process_time()
            reports = tune(model, compute, steps, iterations=args.iterations, batch=args.batch)
            result = last_report(reports, lambda step: None)
            cost = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
            cost |= {"distance_before": result.before, "distance_after": result.after}
            rows += printed(bench, run, steps, args.seeds, result.steps, cost)
        for steps in map(int, filter(None, args.untuned.split(","))):
            rows += printed(bench, run, steps, args.seeds, None, {})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
