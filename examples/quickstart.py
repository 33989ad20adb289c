"""Train on tensors, on a folder and on a torch ``Dataset``; load, sample, watch the steps, and resume.

A minute on two CPU cores; run it again with more --steps, and each run continues where it stopped.

    python examples/quickstart.py --steps 400 --out runs/examples/quickstart
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

import fromnoise as fn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=400, help="training steps of each run")
parser.add_argument("--out", type=Path, default=Path("runs/examples/quickstart"), help="folder of the results")
args = parser.parse_args()


def make_network() -> torch.nn.Module:
    """A small U-Net for 8x8 images; any ``nn.Module`` called as ``network(x, t, cond)`` takes its place."""
    return fn.networks.UNet(1, 1, size=(8, 8), width=32, multipliers=(1, 2), blocks=1)


# the same images in three forms: floats in [-1, 1], a folder of PNGs, and a Dataset
data = fn.as_data("digits").train
digits = fn.data.to_float(data.get(torch.arange(len(data))))
if not (args.out / "images").exists():
    fn.save_images(fn.data.to_uint8(digits), args.out / "images")
sources = {"tensors": digits, "folder": args.out / "images", "dataset": TensorDataset(digits)}

for name, images in sources.items():
    denoiser = fn.Denoiser(make_network(), schedule=fn.schedules.linear(1000), target=fn.targets.Eps())
    for report in fn.Trainer(denoiser, images, batch=64, lr=2e-3, steps=args.steps, out=args.out / name):
        if report.step % 100 == 0:
            print(f"{name}: step {report.step}, loss {report.loss:.3f}")

    model = fn.load(args.out / name, network=make_network())
    samples = model.sample(16, sampler="dpmpp-2m", steps=20, seed=0)  # uint8 (16, 1, 8, 8)
    fn.save_images(samples, args.out / f"{name}.png")

for step in model.steps(16, sampler=fn.samplers.DDIM(eta=0.0), steps=10):
    print(f"t = {step.t:.2f}: x_t has standard deviation {step.step.x.std():.2f}")
