"""``fromnoise train``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HELP = "train a diffusion model by a recipe; the same command again continues"
EPILOG = """examples:
  fromnoise train digits
  fromnoise train images --data ~/pictures --minutes 30
  fromnoise train ho2020 --train.lr 1e-4 --dry-run
  torchrun --nproc_per_node 8 -m fromnoise train ho2020

every key of a recipe can be set as --part.key value; --dry-run shows them all"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="a name (see fromnoise recipes) or a .toml file")
    add(
        "--data",
        metavar="SPEC",
        help="a named set, hub:owner/name, a folder, .zip, .npz, .npy, .parquet or IDX file; SPEC:split picks a split",
    )
    add("--out", metavar="DIR", type=Path, help="the run folder; runs/NAME if left out")
    budget = parser.add_mutually_exclusive_group().add_argument
    budget("--minutes", metavar="M", help="budget in minutes")
    budget("--steps", metavar="N", help="budget in optimiser steps")
    budget("--epochs", metavar="E", help="budget in passes over the training images")
    budget("--images", metavar="N", help="budget in training images seen")
    add("--seed", metavar="S", help="of weights, order and noise")
    add("--batch", metavar="B", help="images a step, over all processes")
    add("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")
    add("--precision", default="auto", help="auto, bf16 or fp32")
    add("--compile", action="store_true", help="compile the network first (slow to start, faster on GPUs)")
    add("--dry-run", action="store_true", help="print the resolved recipe with its cost, and stop")


def run(args: argparse.Namespace) -> int:
    """Train, or show what would be."""
    from fromnoise import config as recipes

    recipe = recipes.load(args.recipe, overrides(args))
    out = args.out or Path("runs") / recipe.name
    if args.dry_run:
        return _show(recipe, args)
    from fromnoise.training.run import train

    outcome = train(recipe, out, device=args.device, precision=args.precision, compiled=args.compile)
    return 128 + outcome.signal if outcome.signal else 0


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Values by dotted key, from the flags and from ``--part.key value``."""
    named = {"data": "data.source", "seed": "train.seed", "batch": "train.batch"}
    named |= {b: f"train.{b}" for b in ("minutes", "steps", "epochs", "images")}
    found = {key: value(getattr(args, flag)) for flag, key in named.items() if getattr(args, flag) is not None}
    if "data.source" in found:
        found["data.source"] = args.data
    return found | {key: value(text) for key, text in args.dotted.items()}


def value(text: str) -> Any:
    """A word of the command line as a TOML value, numbers with commas as a list, or else the string itself."""
    import tomllib

    for written in (text.strip(), f"[{text}]" if "," in text else ""):
        try:
            return tomllib.loads(f"v = {written}")["v"]
        except tomllib.TOMLDecodeError:
            continue
    return {"True": True, "False": False}.get(text, text)


def _show(recipe: Any, args: argparse.Namespace) -> int:
    from fromnoise.config import to_toml
    from fromnoise.model import build
    from fromnoise.training.autosize import fit
    from fromnoise.training.cost import estimate
    from fromnoise.training.optim import Budget
    from fromnoise.training.run import dataset_info, open_data
    from fromnoise.utils.device import select_device

    compute = select_device(args.device, args.precision)
    data = open_data(recipe, lambda line: print(f"# {line}", file=sys.stderr))
    if recipe.train.autosize:
        recipe = fit(
            recipe,
            dataset_info(recipe, data),
            len(data.train),
            compute,
            lambda line: print(f"# {line}", file=sys.stderr),
        )
    model = build(recipe, dataset_info(recipe, data))
    cost = estimate(model, compute)
    if cost.step_seconds < 5:  # then a whole batch is soon tried, and tells more than a few images do
        cost = estimate(model, compute, images=recipe.train.batch // recipe.train.accumulate)
    budget = Budget.from_config(recipe.train, len(data.train))
    steps = budget.steps if budget.steps is not None else int((budget.seconds or 0) / cost.step_seconds)
    hours = steps * cost.step_seconds / 3600
    print(to_toml(recipe), end="")
    print(f"\n# {cost.parameters:,} trainable parameters; images {'x'.join(map(str, data.shape))}")
    print(f"# {len(data.train):,} training images, {len(data.held_out):,} held out")
    time = f"{hours:.1f} hours" if hours >= 1.5 else f"{hours * 60:.1f} minutes"
    print(f"# about {cost.step_seconds:.3g} s a step, {steps:,} steps, {time} on {compute.describe()}")
    print(f"# about {cost.memory_mb:,.0f} MB of memory for the network")
    return 0
