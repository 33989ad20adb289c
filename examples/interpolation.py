"""Interpolate between two images in the latent space of the model, in two ways.

First both images are noised to time t, mixed linearly and denoised (Ho et al. 2020); then they are encoded along the
probability flow, mixed on the sphere and decoded, which reproduces the ends. Trains the digits model on the first run
(about a minute), then takes seconds.

    python examples/interpolation.py --run runs/examples/digits --out runs/examples/interpolation
"""

import argparse
from pathlib import Path

import torch

import fromnoise as fn
from fromnoise.editing.interpolation import interpolate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="runs/examples/digits", help="run directory of the digits model")
parser.add_argument("--steps", type=int, default=500, help="training steps of the digits model")
parser.add_argument("--points", type=int, default=10, help="images in a row, the ends included")
parser.add_argument("--out", type=Path, default=Path("runs/examples/interpolation"), help="folder of the results")
args = parser.parse_args()

model = fn.Trainer("digits", data__labels=True, steps=args.steps, out=args.run).run()  # a finished run is loaded
images = fn.as_data("digits").held_out.get(torch.tensor([0, 1]))  # uint8 (2, 1, 8, 8)


def row(t: float, flow: bool) -> torch.Tensor:
    """Images from the first to the second, by way of time t: uint8 (points, 1, 8, 8)."""
    return interpolate(model.model, model.recipe.sample, model.compute, images, t, args.points, flow=flow)


noised = [row(t, flow=False) for t in (0.25, 0.5, 0.75)]  # more noise, larger changes
encoded = row(1.0, flow=True)
fn.save_images(torch.cat([*noised, encoded]), args.out / "interpolation.png", columns=args.points)
error = (encoded[[0, -1]].float() - images.float()).abs().mean()
print(f"encoded and decoded, the ends change by {error:.1f} of 255 gray levels")
