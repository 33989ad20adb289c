"""``fromnoise guide``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "train a classifier of noisy images, for classifier guidance of a model"
EPILOG = """example:
  fromnoise guide runs/mine --out guide.safetensors
  fromnoise sample runs/mine --classifier guide.safetensors --classifier-scale 2 --label cat --out cats.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory, a .safetensors file or hub:owner/name")
    add("--data", metavar="SPEC", help="labeled data (default: the data of the run)")
    add("--out", metavar="FILE", type=Path, required=True, help="where to write the classifier, .safetensors")
    add("--steps", metavar="N", type=int, default=2000, help="optimizer steps")
    add("--batch", metavar="B", type=int, default=128, help="batch size")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")


def run(args: argparse.Namespace) -> int:
    """Train a classifier and write it."""
    from fromnoise.cli.common import check_minimum

    check_minimum(("--steps", args.steps, 1), ("--batch", args.batch, 1))
    from tqdm import tqdm

    from fromnoise.checkpoint import load_model
    from fromnoise.config.recipe_data import open_data
    from fromnoise.training.noisy_classifier import build_classifier, save_classifier, train_classifier
    from fromnoise.training.run import stop_on_signal
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    check_file(args.out, ".safetensors")
    model = load_model(args.model).model
    recipe = model.recipe
    keys = {"source": args.data or recipe.data.source, "labels": True, "attributes": False}
    keys |= {"size": model.dataset_info.shape[1:], "channels": model.dataset_info.shape[0]}
    data = open_data(recipe.model_copy(update={"data": recipe.data.model_copy(update=keys)}), print)
    classifier = build_classifier(model, data)
    compute = select_device(args.device, args.precision)
    losses: list[float] = []
    steps = train_classifier(classifier, model, data, compute, steps=args.steps, batch=args.batch)
    # a flag, because Python drops a KeyboardInterrupt that is raised in a callback of another library
    with stop_on_signal(lambda: None) as signals, tqdm(steps, total=args.steps, unit="step") as bar:
        for step in bar:
            losses = [*losses[-99:], step.loss]
            bar.set_description_str(f"loss {sum(losses) / len(losses):.4f}", refresh=False)
            if signals and step.step < args.steps:
                tqdm.write(f"stopped at step {step.step:,}; nothing was written", file=sys.stderr)
                return 128 + signals[0]
    save_classifier(args.out, classifier, model)
    print(f"{args.steps} steps, loss {sum(losses) / len(losses):.4f}: {args.out}")
    return 0
