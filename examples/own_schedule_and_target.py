"""Write a noise schedule and a target, and train a recipe with them.

The target is the velocity of flow matching, on a variance-preserving schedule; the schedule is linear in the log
signal-to-noise ratio. Both are registered, so that recipes, files and the command line know their names.
A minute on two CPU cores.

    python examples/own_schedule_and_target.py --steps 600 --out runs/examples/own_schedule_and_target
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

import fromnoise as fn
from fromnoise.diffusion import NoiseLevel, Schedule, Target


@fn.register("schedule", "linear-logsnr")
class LinearLogSNR(Schedule):
    """A continuous schedule whose log-SNR falls linearly from ``start`` to ``end``."""

    def __init__(self, start: float = 10.0, end: float = -10.0) -> None:
        self.start, self.end = start, end

    @property
    def steps(self) -> None:
        """None: time is continuous."""
        return None

    def logsnr(self, t: Tensor) -> Tensor:
        """The line from ``start`` to ``end``; +inf at t = 0, the clean image."""
        return torch.where(t <= 0, math.inf, self.start + (self.end - self.start) * t.to(torch.float64))

    def time_from_uniform(self, u: Tensor) -> Tensor:
        """Training times in (0, 1]."""
        return 1 - u.to(torch.float64)


@fn.register("target", "flow")
class Flow(Target):
    """The velocity eps - x_0 (Lipman et al. 2023), with x_t = alpha x_0 + sigma eps."""

    def target_from(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """The value to regress: eps - x_0."""
        return eps - x0

    def x0(self, x: Tensor, out: Tensor, level: NoiseLevel) -> Tensor:
        """The clean image (x_t - sigma u) / (alpha + sigma)."""
        return (x - level.sigma * out) / (level.alpha + level.sigma)

    def snr_weight(self, level: NoiseLevel) -> Tensor:
        """(du / dx_0)^2 at fixed x_t: (1 + alpha / sigma)^2."""
        return (1 + level.alpha / level.sigma) ** 2


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=600, help="training steps")
parser.add_argument("--out", type=Path, default=Path("runs/examples/own_schedule_and_target"), help="run directory")
args = parser.parse_args()

schedule = {"kind": "linear-logsnr", "end": -8.0}
trainer = fn.Trainer("digits", diffusion__schedule=schedule, diffusion__target="flow", steps=args.steps, out=args.out)
model = trainer.run()
fn.save_images(model.sample(64), args.out / "flow.png")
