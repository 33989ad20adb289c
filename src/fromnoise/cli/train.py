"""``fromnoise train``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fromnoise.cli.parsing import parse_value

HELP = "train a diffusion model by a recipe; run the same command again to resume"
EPILOG = """examples:
  fromnoise train digits
  fromnoise train images --data ~/pictures --minutes 30
  fromnoise train ho2020 --train.lr 1e-4 --dry-run
  torchrun --nproc_per_node 8 -m fromnoise train ho2020

every key of a recipe can be set as --section.key value; --dry-run prints them all"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="name of a recipe (see fromnoise recipes), or a .toml file")
    add(
        "--data",
        metavar="SPEC",
        help="a named set, hub:owner/name, a folder, .zip, .npz, .npy, .parquet or IDX file; SPEC:split picks a split",
    )
    add(
        "--autoencoder",
        metavar="RUN",
        help="for a recipe of latent diffusion: a trained autoencoder (default: one is trained first)",
    )
    add("--out", metavar="DIR", type=Path, help="run directory (default: runs/NAME)")
    budget = parser.add_mutually_exclusive_group().add_argument
    budget("--minutes", metavar="M", help="budget in minutes")
    budget("--steps", metavar="N", help="budget in optimizer steps")
    budget("--epochs", metavar="E", help="budget in epochs")
    budget("--images", metavar="N", help="budget in training images seen")
    add("--seed", metavar="S", help="seed of the initial weights, the order of the data and the noise")
    add("--batch", metavar="B", help="batch size, over all processes")
    add("--tracker", metavar="NAME", help="show the run in tensorboard, trackio or wandb (default: none)")
    add("--sharding", metavar="MODE", help="none or full: each process holds a part of the network (default: none)")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")
    add("--compile", action="store_true", help="compile the network with torch.compile: slow to start, faster on GPUs")
    add("--dry-run", action="store_true", help="print the resolved recipe and an estimate of its cost, and exit")


def run(args: argparse.Namespace) -> int:
    """Train, or print what would be trained."""
    from fromnoise import config as recipes

    recipe = recipes.load(args.recipe, overrides(args))
    out = args.out or Path("runs") / recipe.name
    if args.dry_run:
        return _dry_run(recipe, args)
    from fromnoise.training.run import train

    result = train(recipe, out, device=args.device, precision=args.precision, compiled=args.compile)
    return 128 + result.signal if result.signal else 0


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Values by dotted key, from the flags and from ``--section.key value``."""
    named = {"data": "data.source", "seed": "train.seed", "batch": "train.batch", "tracker": "train.tracker"}
    named |= {"autoencoder": "latent.source", "sharding": "train.sharding"}
    named |= {b: f"train.{b}" for b in ("minutes", "steps", "epochs", "images")}
    found = {key: parse_value(getattr(args, flag)) for flag, key in named.items() if getattr(args, flag) is not None}
    if "data.source" in found:
        found["data.source"] = args.data
    return found | dotted_values(args.dotted)


def dotted_values(dotted: dict[str, str]) -> dict[str, Any]:
    """The values of ``--section.key value``; a yes-or-no key without a value is switched on."""
    from fromnoise.config import keys

    switches = (
        {key for key, (_, default) in keys().items() if isinstance(default, bool)} if "" in dotted.values() else ()
    )
    return {key: True if key in switches and not text else parse_value(text) for key, text in dotted.items()}


def _dry_run(recipe: Any, args: argparse.Namespace) -> int:
    """Print the recipe as TOML with an estimate of time and memory; nothing is written."""
    from fromnoise.config import to_toml
    from fromnoise.training.dry_run import dry_run
    from fromnoise.utils.device import select_device

    def log(line: str) -> None:
        print(f"# {line}", file=sys.stderr)

    expected = dry_run(recipe, select_device(args.device, args.precision), log)
    print(to_toml(expected.recipe))
    for line in expected.lines:
        print(f"# {line}")
    return 0
