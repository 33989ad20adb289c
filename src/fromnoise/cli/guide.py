"""``fromnoise guide``."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train a classifier of noisy images that guides a model, told labels or not"
EPILOG = """example:
  fromnoise guide runs/mine --out guide.safetensors
  fromnoise sample runs/mine --classifier guide.safetensors --classifier-scale 2 --label cat --out cats.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run folder or one .safetensors file")
    add("--data", metavar="SPEC", help="labelled data; left out: the run's own")
    add("--out", metavar="FILE", type=Path, required=True, help="where it goes, .safetensors")
    add("--steps", metavar="N", type=int, default=2000, help="budget in optimiser steps")
    add("--batch", metavar="B", type=int, default=128, help="images a step")
    add("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")
    add("--precision", default="auto", help="auto, bf16 or fp32")


def run(args: argparse.Namespace) -> int:
    """Train and write."""
    from fromnoise.utils.errors import UserError

    for flag, number in (("--steps", args.steps), ("--batch", args.batch)):
        if number < 1:
            raise UserError(f"{flag} {number} is too small: take at least 1")
    from tqdm import tqdm

    from fromnoise.checkpoint import load_model
    from fromnoise.config.recipe_data import open_data
    from fromnoise.training import noisy_classifier as guides
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    check_file(args.out, ".safetensors")
    model = load_model(args.model).model
    recipe = model.recipe
    own = {"source": args.data or recipe.data.source, "labels": True, "attributes": False}
    own |= {"size": model.dataset_info.shape[1:], "channels": model.dataset_info.shape[0]}
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=own)})
    data = open_data(recipe, print)
    guide = guides.begin(model, data)
    losses: list[float] = []
    with tqdm(
        guides.learn(
            guide, model, data, select_device(args.device, args.precision), steps=args.steps, batch=args.batch
        ),
        total=args.steps,
        unit="step",
    ) as bar:
        for lesson in bar:
            losses = [*losses[-99:], lesson.loss]
            bar.set_description_str(f"loss {sum(losses) / len(losses):.4f}", refresh=False)
    guides.save(args.out, guide, model)
    print(f"{args.steps} steps, loss {sum(losses) / len(losses):.4f}: {args.out}")
    return 0
