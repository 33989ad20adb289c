"""Write a sampler: the midpoint method on the probability-flow ODE, compared with the built-in samplers.

A sampler is a frozen object with one method, ``step``; the loop over the noise levels, guidance and the network are
none of its business. Trains the digits model on the first run (about a minute), then takes seconds.

    python examples/own_sampler.py --run runs/examples/digits --out runs/examples/own_sampler
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import fromnoise as fn
from fromnoise.diffusion import NoiseLevel, Prediction, Sampler, Schedule
from fromnoise.diffusion.samplers import DenoiseFn, NoiseFn


@fn.register("sampler", "midpoint")  # from here on also a name: sampler="midpoint"
@dataclass(frozen=True)
class Midpoint(Sampler):
    """The midpoint method for d(x/alpha) / d(sigma/alpha) = eps_hat: two evaluations per step, order 2."""

    schedule: Schedule  # supplied by the model that samples

    default_grid = "logsnr"
    default_steps = 15
    evaluations = 2

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step from x_t to x_s."""
        prediction = denoise(x, level_t)
        slope = level_t.eps(x, prediction.x0)
        if level_s.sigma > 0:
            middle = self.schedule.at(self.schedule.time_from_logsnr((level_t.logsnr + level_s.logsnr) / 2))
            x_middle = middle.alpha * (x / level_t.alpha + (ratio(middle) - ratio(level_t)) * slope)
            slope = middle.eps(x_middle, denoise(x_middle, middle).x0)
        return level_s.alpha * (x / level_t.alpha + (ratio(level_s) - ratio(level_t)) * slope), prediction, memory


def ratio(level: NoiseLevel) -> Tensor:
    """Noise-to-signal ratio sigma / alpha."""
    return level.sigma / level.alpha


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="runs/examples/digits", help="run directory of the digits model")
parser.add_argument("--steps", type=int, default=500, help="training steps of the digits model")
parser.add_argument("--out", type=Path, default=Path("runs/examples/own_sampler"), help="folder of the results")
args = parser.parse_args()

model = fn.Trainer("digits", data__labels=True, steps=args.steps, out=args.run).run()  # a finished run is loaded
exact = model.sample(36, sampler="heun", steps=100, clip=False).float()  # the same noise, many steps
for sampler, steps in (("ddim", 40), ("heun", 20), ("midpoint", 20)):
    samples = model.sample(36, sampler=sampler, steps=steps, grid="logsnr", clip=False)
    print(f"{sampler}: mean error {(samples - exact).abs().mean():.2f} gray levels after 40 evaluations")
    fn.save_images(samples, args.out / f"{sampler}.png")
