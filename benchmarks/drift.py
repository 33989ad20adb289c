"""A fault of tutorial S1: without clipping x_0, the brightness of samples drifts to all black or all white.

python benchmarks/drift.py RUN [-n N] [--image PNG]

Prints, for real images and for samples with and without clipping, mean and standard deviation of the images' mean
brightness, and the fraction of images that are darker or brighter than all but 1 in 1,000 real ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from header import header
from torch import Tensor

from fromnoise.checkpoint import load_model
from fromnoise.config.recipe_data import open_data
from fromnoise.pipeline import collect, sample_steps
from fromnoise.reporting import image_io
from fromnoise.utils.device import select_device


def main() -> None:
    """Sample with and without clipping from the same noise, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("--image", type=Path)
    args = parser.parse_args()
    loaded, compute = load_model(args.run), select_device()
    compute.to_device(loaded.model.denoiser)
    steps = loaded.model.schedule.steps  # all of them, with the large variance, as published
    published = loaded.model.recipe.sample.model_copy(
        update={"sampler": {"kind": "ancestral", "variance": 1.0}, "steps": steps, "grid": "uniform"}
    )
    data = open_data(loaded.model.recipe, lambda line: None)
    real = data.train.get(torch.arange(min(10_000, len(data.train))))
    ids = torch.arange(args.n)
    samples = {
        name: collect(sample_steps(loaded.model, published.model_copy(update={"clip": clip}), compute, ids=ids)).images
        for name, clip in (("x_0 clipped in each step", True), ("as published, not clipped", False))
    }

    def brightness(images: Tensor) -> Tensor:
        return images.double().mean((1, 2, 3)) / 255

    low, high = brightness(real).quantile(torch.tensor([0.0005, 0.9995], dtype=torch.float64)).tolist()
    print(header())
    print(f"{args.n} samples of {args.run}, step {loaded.progress['step']:,}, ancestral, all steps")
    for name, images in {"real": real, **samples}.items():
        mean = brightness(images)
        outside = float(((mean < low) | (mean > high)).double().mean())
        error = (outside * (1 - outside) / len(images)) ** 0.5
        print(
            f"{name:27} n {len(images):6,}  brightness {float(mean.mean()):.3f}, deviation {float(mean.std()):.3f}; "
            f"outside the real range {outside:.3f} +- {error:.3f}"
        )
    if args.image:
        panels = [(name, image_io.grid(images[:36], gap=4, scale=2)) for name, images in samples.items()]
        image_io.save(image_io.side_by_side(panels), args.image)
        print(args.image)


if __name__ == "__main__":
    main()
