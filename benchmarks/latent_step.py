"""A training step on cached latents against one on images of the same shape, interleaved in one process.

python benchmarks/latent_step.py [--steps 60] [--images 512] [--side 128] [--threads 1]

Both models have the network of recipe ``latent``: one works on latents of images of the given side, encoded once, the
other on images of as many channels, rows and columns as the latents have. Prints both medians, their ratio, and the
median of the ratios of neighbouring steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from header import header

from fromnoise import config as recipes
from fromnoise.config.recipe_data import dataset_info
from fromnoise.data.convert import as_data
from fromnoise.model import build, build_autoencoder
from fromnoise.training.latents import cache_latents, fit_latent_space
from fromnoise.training.loop import TrainingLoop
from fromnoise.utils.device import ComputeConfig, select_device


def loop_on(shape: tuple[int, int, int], images: int, compute: ComputeConfig, changes: dict[str, Any]) -> TrainingLoop:
    """A training loop on random images of a shape (C, H, W)."""
    rng = np.random.default_rng(0)
    data = as_data(torch.from_numpy(rng.integers(0, 256, (images, *shape), dtype=np.uint8)))
    base = {"train.steps": 10_000, "train.evaluations": 1, "train.autosize": [], "train.held_out": 8}
    recipe = recipes.load("latent", base | changes)
    model = build(recipe, dataset_info(recipe, data))
    loop = TrainingLoop(model, data, compute, Accelerator(cpu=compute.device.type == "cpu"))
    if model.latent_space is not None:
        fit_latent_space(loop, build_autoencoder(recipe, model.dataset_info))
        cache_latents(loop, print)
    return loop


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    compute = select_device(None)
    latent = loop_on((3, args.side, args.side), args.images, compute, {})
    shape = latent.model.shape(None)
    pixel = loop_on(shape, args.images, compute, {"autoencoder": None})
    times: dict[str, list[float]] = {"latents": [], "images": []}
    runs = {"latents": latent.run(), "images": pixel.run()}
    for step in range(args.steps + 5):
        for name, run in runs.items():
            start = time.perf_counter()
            next(run)
            if step >= 5:
                times[name].append(time.perf_counter() - start)
    print(header())
    print(f"{compute.describe()}; {'x'.join(map(str, shape))}, batch {latent.config.batch}, {args.steps} steps each")
    for name, each in times.items():
        print(f"{name}: median {1000 * statistics.median(each):.1f} ms")
    ratios = [a / b for a, b in zip(times["latents"], times["images"], strict=True)]
    one, other = (statistics.median(each) for each in times.values())
    print(f"latents / images: {one / other:.3f}; median of the ratios of neighbours {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
