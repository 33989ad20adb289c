"""Every registered sampler at its own default steps and grid: evaluations, time, and confidence of two classifiers.

python benchmarks/sampler_defaults.py RUN [-n N] [--samplers NAME,...] [--grids NAME,...] [--steps K,...] [--rows FILE]

RUN is a run of recipe digits; if it does not exist, the recipe is trained there for --train-steps steps. All samplers
start from the same noise. An evaluation is one call of the network per image. A classifier is confident in a sample if
its largest probability is at least 90 % (digit_confidence.py). The last lines compare every sampler with the best of
those with at most 30 evaluations. --grids and --steps measure other settings than the defaults, for choosing them; rows
in FILE are not measured again, so that a long measurement can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from digit_confidence import confidence
from header import header

from fromnoise import registry
from fromnoise.checkpoint import load_model
from fromnoise.config import SamplingConfig
from fromnoise.config import load as load_recipe
from fromnoise.model import Model
from fromnoise.pipeline import collect, sample_steps
from fromnoise.training.run import train
from fromnoise.utils.device import ComputeConfig, select_device

FEW = 30
"""Evaluations of the samplers among which the best is taken."""
SHARE = 0.9
"""Of the best sampler's confidence, which every sampler is to reach."""
Row = dict[str, Any]


def measure(model: Model, compute: ComputeConfig, sampler: str, n: int, grid: str | None, steps: int | None) -> Row:
    """Sample and classify.

    Args:
        model: on the device.
        compute: the device.
        sampler: its name.
        n: number of samples, one batch.
        grid: None is the sampler's default.
        steps: None is the sampler's default.
    """
    changes = {"sampler": sampler, "grid": grid, "steps": steps}
    config = SamplingConfig.model_validate(model.recipe.sample.model_dump() | changes)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = model.denoiser.network.register_forward_pre_hook(count)
    begun = time.perf_counter()
    samples = collect(sample_steps(model, config, compute, ids=torch.arange(n), batch=n))
    seconds = time.perf_counter() - begun
    hook.remove()
    built = model.sampler(config)
    neighbours, trees = confidence(samples.images.numpy())
    return {
        "sampler": sampler,
        "grid": grid or (built.default_grid if bool(torch.isfinite(model.schedule.at(1.0).logsnr)) else "uniform"),
        "steps": model.steps(config),
        "default": grid is None and steps is None,
        "evaluations": calls,
        "seconds": seconds,
        "n": n,
        "neighbours": neighbours.samples,
        "neighbours_error": neighbours.error,
        "trees": trees.samples,
        "trees_error": trees.error,
        "classes": sum(count > 0 for count in neighbours.classes),
        "real": [neighbours.real, trees.real],
    }


def print_table(rows: list[Row]) -> None:
    """Print the rows as Markdown, and what is below the required share."""
    few = [row for row in rows if row["evaluations"] <= FEW]
    best = max(few, key=lambda row: row["neighbours"])
    print("| sampler | grid | steps | evaluations | seconds | 3 nearest neighbours | of the best | 500 random trees |")
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["evaluations"], -row["neighbours"])):
        relative = row["neighbours"] / best["neighbours"]
        print(
            f"| {row['sampler']} | {row['grid']} | {row['steps']} | {row['evaluations']} | {row['seconds']:.0f} | "
            f"{row['neighbours']:.3f} +- {row['neighbours_error']:.3f} | {relative:.2f} | "
            f"{row['trees']:.3f} +- {row['trees_error']:.3f} |"
        )
    real = rows[0]["real"]
    print(f"\nreal test digits: {real[0]:.3f} and {real[1]:.3f}")
    print(f"best with at most {FEW} evaluations: {best['sampler']}, {best['neighbours']:.3f}")
    short = [row["sampler"] for row in rows if row["neighbours"] < SHARE * best["neighbours"]]
    print(f"below {SHARE:.0%} of it: {', '.join(short) or 'none'}")


def main() -> None:
    """Train if necessary, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/digits"))
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--train-steps", type=int, default=1500)
    parser.add_argument("--samplers", default=",".join(registry.names("sampler")))
    parser.add_argument("--grids", default="", help="other grids; left out: each sampler's default")
    parser.add_argument("--steps", default="", help="other numbers of steps; left out: each sampler's default")
    parser.add_argument("--rows", type=Path, help="rows measured so far, JSON lines")
    args = parser.parse_args()
    file: Path | None = args.rows
    if not (args.run / "model.safetensors").exists():
        train(load_recipe("digits", {"train.steps": args.train_steps, "train.previews": 0}), args.run)
    loaded, compute = load_model(args.run), select_device()
    compute.to_device(loaded.model.denoiser)
    print(header())
    print(f"{args.run}: {loaded.progress['step']:,} steps of recipe {loaded.model.recipe.name}; {compute.describe()}")
    found: list[Row] = []
    if file is not None and file.exists():
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows: list[Row] = []
    for sampler in args.samplers.split(","):
        for grid in args.grids.split(",") if args.grids else [None]:
            for steps in map(int, args.steps.split(",")) if args.steps else [None]:
                wanted = {"sampler": sampler, "n": args.n, "default": grid is None and steps is None}
                wanted |= {k: v for k, v in {"grid": grid, "steps": steps}.items() if v is not None}
                row = next((r for r in found if wanted.items() <= r.items()), None)
                if row is None:
                    row = measure(loaded.model, compute, sampler, args.n, grid, steps)
                    print(json.dumps(row), flush=True)
                    if file is not None:
                        with file.open("a", encoding="utf-8") as out:
                            out.write(json.dumps(row) + "\n")
                rows.append(row)
    print_table(rows)


if __name__ == "__main__":
    main()
