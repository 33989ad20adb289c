"""Does self-conditioning lower the held-out loss at an equal number of steps?

python benchmarks/selfconditioning.py [--recipe R] [--data SPEC] [--steps N] [--seeds S]

Each seed trains a recipe with and without (Chen et al. 2022), on the same images, times and noise; the loss is that of
the held-out images at fixed times and noise, with averaged weights. A model that conditions on itself is measured
without its own first estimate, as a first step of sampling has it, and with it, as all later steps have.
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
from fromnoise.training.trainer import Trainer
from fromnoise.utils.device import select_device

# whatever the recipe's own training is: what was measured stays what is measured
TRAINING = {"train.batch": 128, "train.optimizer": "adam", "train.lr": 2e-3, "train.warmup": 50}


def measure(recipe: recipes.Recipe) -> tuple[float, float, float]:
    """Held-out loss without and with an estimate to condition on, and seconds of training."""
    data = open_data(recipe, lambda line: None)
    compute = select_device("cpu", "fp32")
    trainer = Trainer(build(recipe, dataset_info(recipe, data)), data, compute, Accelerator(cpu=True))
    begun = time.perf_counter()
    for _ in trainer.run():
        pass
    spent = time.perf_counter() - begun
    objective = trainer.model.diffusion_loss()
    objective.denoiser = trainer.ema_denoiser()
    held = data.held_out
    x0 = to_float(held.get(torch.arange(len(held))))
    losses = []
    for guess in (False, True):
        with torch.no_grad():
            # eight times and noises an image
            each = [
                objective(x0, torch.arange(len(x0)) + k * len(x0), guess=guess, training=False).plain for k in range(8)
            ]
        losses.append(float(torch.stack(each).double().mean()))
    return losses[0], losses[1], spent


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
        own = TRAINING | {"train.steps": args.steps, "train.seed": seed, "train.previews": 0, "train.evaluations": 1}
        own |= {"data.source": args.data} if args.data else {}
        plain, _, plain_time = measure(recipes.load(args.recipe, own))
        first, later, time_ = measure(recipes.load(args.recipe, own | {"loss.self_conditioning": True}))
        changes.append(later / plain - 1)
        print(
            f"seed {seed}: plain {plain:.5f} ({plain_time:.0f} s); conditioned on itself, first step {first:.5f}, "
            f"later {later:.5f} ({time_:.0f} s): {changes[-1]:+.1%}",
            flush=True,
        )
    changes = torch.tensor(changes, dtype=torch.float64)
    error = float(changes.std()) / len(changes) ** 0.5 if len(changes) > 1 else float("nan")
    print(f"change of the loss: {float(changes.mean()):+.1%} +- {error:.1%} ({args.seeds} seeds, {args.steps} steps)")


if __name__ == "__main__":
    main()
