"""Fill in the missing half of held-out digits, four times each, with a solver for linear inverse problems.

The solver wraps the denoiser, and the sampling loop stays the same. Any ``LinearOperator`` takes the place of the mask:
``fn.inverse.downsampling``, ``gaussian_blur``, ``grayscale`` or one of your own. Trains the digits model on the first
run (about a minute), then takes seconds.

    python examples/inpainting.py --run runs/examples/digits --out runs/examples/inpainting
"""

import argparse
from pathlib import Path

import torch

import fromnoise as fn
from fromnoise.diffusion import Noise, initial_noise, sampling, sampling_loop

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="runs/examples/digits", help="run directory of the digits model")
parser.add_argument("--steps", type=int, default=500, help="training steps of the digits model")
parser.add_argument("--out", type=Path, default=Path("runs/examples/inpainting"), help="folder of the results")
args = parser.parse_args()

model = fn.Trainer("digits", data__labels=True, steps=args.steps, out=args.run).run()  # a finished run is loaded

originals = fn.as_data("digits").held_out.get(torch.arange(10))  # uint8 (10, 1, 8, 8)
known = torch.zeros(1, 8, 8, dtype=torch.bool)
known[:, :4] = True  # the upper half
mask = fn.inverse.Mask(known)

x0 = fn.data.to_float(originals).repeat_interleave(4, dim=0)  # four samples of each
measured = mask.forward(x0)
denoise = fn.inverse.MMPS().denoiser(model.denoiser, mask, measured)
levels = sampling.uniform(model.denoiser.schedule, steps=25)
noise = Noise(seed=0, ids=torch.arange(len(x0)))
x = initial_noise(model.shape, noise, like=x0)
with torch.no_grad():
    for step in sampling_loop(denoise, fn.samplers.DDIM(eta=1.0), levels, x, noise):
        x = step.x
filled = fn.data.to_uint8(mask.project(x, measured))  # known pixels exactly

assert torch.equal(filled[:, known], originals.repeat_interleave(4, dim=0)[:, known])
masked = torch.where(known, originals, 128)
columns = torch.cat([originals[:, None], masked[:, None], filled.unflatten(0, (10, 4))], dim=1)
fn.save_images(columns.flatten(0, 1), args.out / "inpainted.png", columns=6)
