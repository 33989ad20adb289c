"""Time of a run before its first step, and of what interrupts its steps.

python benchmarks/outside_steps.py [--recipe fast] [--data fashion_mnist] [--minutes 2.5] [--steps 20] [--threads 2]
    [--set KEY=VALUE]

Calls the parts of ``fromnoise train`` one after the other and prints the duration and the CPU time of each; beside
other busy processes only the CPU time says something. At the end ``fromnoise train`` itself prints how long its steps,
checkpoints, previews and evaluations took.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from header import header
from training_time import parse_settings

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.model import build_trainable
from fromnoise.training.autosize import autosize
from fromnoise.training.forecast import prepare_budget
from fromnoise.training.loop import TrainingLoop
from fromnoise.utils.device import select_device


@contextlib.contextmanager
def timed(name: str) -> Iterator[None]:
    """Print a row of the table."""
    start, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"| {name} | {time.perf_counter() - start:.2f} | {time.process_time() - cpu:.2f} |", flush=True)


def main() -> None:
    """Time every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--minutes", type=float, default=2.5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    budget = {"data.source": args.data, "train.minutes": args.minutes, "train.threads": args.threads}
    recipe, compute = recipes.load(args.recipe, budget | parse_settings(args.set)), select_device("cpu")
    lines: list[str] = []
    print(header())
    print(compute.describe())
    print("| part | seconds | CPU seconds |\n|---|---|---|")
    with timed("open the data"):
        data = open_data(recipe, lines.append)
        info = dataset_info(recipe, data)
    if "network.width" in recipe.train.autosize:
        with timed("choose the width"):
            recipe = autosize(recipe, info, len(data.train), compute, lines.append)
    with timed("build the network and the optimizer"):
        model = build_trainable(recipe, info)
        loop = TrainingLoop(model, data, compute, Accelerator(cpu=True), log=lines.append)
    with timed("fit the pseudo-labels"):
        loop.fit_pseudo_labels()
    with timed("measure a step, plan the measurements"):
        prepare_budget(loop, lines.append)
    steps = loop.run()
    with timed("first step"):
        next(steps)
    with timed(f"{args.steps} steps"):
        for _ in islice(steps, args.steps):
            pass
    steps.close()
    with timed("a held-out loss"):
        loop.evaluate()
    with timed("write the model"), tempfile.TemporaryDirectory() as folder:
        checkpoint.save_model(Path(folder) / "model.safetensors", loop.model, loop.ema_state_dict(), {"step": 1})
    print("\n".join(lines))


if __name__ == "__main__":
    main()
