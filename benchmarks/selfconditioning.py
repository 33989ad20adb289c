"""Does self-conditioning lower the held-out loss at an equal number of steps?

python benchmarks/selfconditioning.py [--recipe R] [--data SPEC] [--steps N] [--seeds S]

Each seed trains a recipe with and without self-conditioning (Chen et al. 2022), on the same images, times and noise.
The loss is measured on held-out images at fixed times and with fixed noise, with EMA weights. A self-conditioned model
is measured without an estimate of x_0, as in the first step of sampling, and with it, as in all later steps.
"""

from __future__ import annotations

import argparse
import time

import torch
from accelerate import Accelerator
from header import header

from fromnoise import config as recipes
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.data import to_float
from fromnoise.model import build
from fromnoise.training.loop import TrainingLoop
from fromnoise.utils.device import select_device

# fixed, so that a change of a recipe does not change what is measured
TRAINING = {"train.batch": 128, "train.optimizer": "adam", "train.lr": 2e-3, "train.warmup": 50}


def train_and_measure(recipe: recipes.Recipe) -> tuple[float, float, float]:
    """Held-out loss without and with an estimate of x_0 as input, and seconds of training."""
    data = open_data(recipe, lambda line: None)
    compute = select_device("cpu", "fp32")
    loop = TrainingLoop(build(recipe, dataset_info(recipe, data)), data, compute, Accelerator(cpu=True))
    start = time.perf_counter()
    for _ in loop.run():
        pass
    seconds = time.perf_counter() - start
    loss = loop.ema_model().training_loss()
    x0 = to_float(data.held_out.get(torch.arange(len(data.held_out))))
    losses = []
    for self_condition in (False, True):
        with torch.no_grad():
            # eight times and noises for each image
            terms = [
                loss(x0, torch.arange(len(x0)) + k * len(x0), self_condition=self_condition, training=False)
                for k in range(8)
            ]
        losses.append(float(torch.stack([t.unweighted for t in terms]).double().mean()))
    return losses[0], losses[1], seconds


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--data")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    print(header())
    changes = []
    for seed in range(args.seeds):
        keys = TRAINING | {"train.steps": args.steps, "train.seed": seed, "train.previews": 0, "train.evaluations": 1}
        keys |= {"data.source": args.data} if args.data else {}
        plain, _, plain_seconds = train_and_measure(recipes.load(args.recipe, keys))
        keys |= {"loss.self_conditioning": True}
        first, later, seconds = train_and_measure(recipes.load(args.recipe, keys))
        changes.append(later / plain - 1)
        print(
            f"seed {seed}: without {plain:.5f} ({plain_seconds:.0f} s); self-conditioned, first step {first:.5f}, "
            f"later steps {later:.5f} ({seconds:.0f} s): {changes[-1]:+.1%}",
            flush=True,
        )
    changes = torch.tensor(changes, dtype=torch.float64)
    error = float(changes.std()) / len(changes) ** 0.5 if len(changes) > 1 else float("nan")
    print(f"change of the loss: {float(changes.mean()):+.1%} +- {error:.1%} ({args.seeds} seeds, {args.steps} steps)")


if __name__ == "__main__":
    main()
