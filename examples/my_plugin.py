"""A plug-in: a data set and a loss weighting in one file, for the command line and for Python.

    cd examples
    fromnoise train digits --plugin my_plugin --data stripes --loss.weighting sigmoid --out runs/stripes
    fromnoise sample runs/stripes --plugin my_plugin -n 16 --out stripes.png

As a program it does the same in half a minute: python examples/my_plugin.py --out runs/examples/my_plugin
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fromnoise as fn
from fromnoise.diffusion import NoiseLevel, Target
from fromnoise.diffusion.losses import Weighting


@fn.register("dataset", "stripes")
def stripes() -> tuple[np.ndarray, list[str]]:
    """Horizontal and vertical stripes, 8x8."""
    rows = np.random.default_rng(0).integers(0, 2, (512, 8, 1), dtype=np.uint8) * 255
    images = np.repeat(rows, 8, axis=2)
    return np.concatenate([images, images.transpose(0, 2, 1)]), ["horizontal"] * 512 + ["vertical"] * 512


@fn.register("weighting", "sigmoid")
@dataclass(frozen=True)
class SigmoidWeighting(Weighting):
    """sigmoid(bias - logsnr) on the error in eps, whatever the target (Kingma and Gao 2023).

    Attributes:
        bias: larger values give more weight to low noise levels.
    """

    bias: float = 0.0

    def weight(self, level: NoiseLevel, target: Target) -> Tensor:
        """SNR sigmoid(bias - logsnr) / snr_weight."""
        return level.snr * torch.sigmoid(self.bias - level.logsnr) / target.snr_weight(level)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/my_plugin"), help="folder of the results")
    args = parser.parse_args()

    weighting = {"kind": "sigmoid", "bias": 1.0}
    trainer = fn.Trainer("digits", "stripes", loss__weighting=weighting, steps=args.steps, out=args.out / "run")
    fn.save_images(trainer.run().sample(36), args.out / "stripes.png")
