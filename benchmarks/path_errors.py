"""Why more evaluations can be worse: changes of denoiser and sampler, and the error of the denoiser by level.

python benchmarks/path_errors.py RUN [--steps 10,20] [-n N] [--device cpu]

Prints the distance of N samples with i.i.d. pseudo-labels to the training images in classifier features, all from the
same noise, with each change; then mean squared error, bias and slope (of the regression of x_0 on the prediction) of
the clipped denoiser on held-out images with their pseudo-labels. Needs a run of recipe fast.

The share of black pixels shows a haze that the eye does not see; the last column is the distance of the same samples
with all values up to 4 of 255 set to black.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from header import header
from torch import Tensor
from training_time import Distances, cells

from fromnoise.checkpoint import load_model
from fromnoise.config import change
from fromnoise.config.recipe_data import open_data
from fromnoise.data import to_float
from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.model import no_wrapper
from fromnoise.pipeline import collect, sample_steps
from fromnoise.utils.device import select_device

HAZE = 4
"""Pixel values up to this one count as black in the last column."""
TIMES = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0)


def scaled_noise(factor: float) -> Callable[[Denoise], Denoise]:
    """Multiply the predicted noise, where alpha is above 0.1; 1/lambda in Ning et al. 2024."""

    def wrap(denoise: Denoise) -> Denoise:
        def scaled(x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None):
            x0 = denoise(x, level, cond, previous).x0
            return Prediction((x - factor * (x - level.alpha * x0)) / level.alpha if level.alpha > 0.1 else x0)

        return scaled

    return wrap


def cluster_means(means: Tensor, first: float) -> Callable[[Denoise], Denoise]:
    """The mean image of the pseudo-label in place of the network at t >= ``first``."""

    def wrap(denoise: Denoise) -> Denoise:
        def replaced(x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None):
            if float(level.t) >= first and cond is not None:
                return Prediction(means[cond].to(x))
            return denoise(x, level, cond, previous)

        return replaced

    return wrap


def main() -> None:
    """Sample, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", default="10,20")
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--device")
    args = parser.parse_args()
    compute, model = select_device(args.device), load_model(args.run).model
    data, labels = open_data(model.recipe, lambda line: None), model.denoiser.pseudo_labels
    compute.to_device(model.denoiser)
    print(header())
    print(compute.describe())
    train = to_float(data.train.get(torch.arange(min(10_000, len(data.train)))))
    groups, count = labels.assign(train), len(labels.weights)
    means = torch.stack([train[groups == k].mean(0) if (groups == k).any() else train.mean(0) for k in range(count)])

    held_out = to_float(data.held_out.get(torch.arange(min(args.n, len(data.held_out)))))
    own, ids = labels.assign(held_out), torch.arange(len(held_out))
    print(f"mean image of the cluster: mean squared error {float((means[own] - held_out).square().mean()):.4f}")
    print("\n| t | sigma/alpha | mean squared error | bias | slope |\n|---|---|---|---|---|")
    eps = Noise(1, ids).normal(tuple(held_out.shape[1:]), Stream.EPS, like=held_out)
    for t in TIMES:
        level, parts = model.schedule.at(t), []
        with torch.inference_mode(), compute.autocast():
            for k in ids.split(128):
                x = level.noisy(held_out[k], eps[k]).to(compute.device, memory_format=compute.memory_format)
                parts.append(model.denoiser(x, level, own[k].to(compute.device)).x0.float().cpu().clamp(-1, 1))
        error, centred = (x0 := torch.cat(parts)) - held_out, x0 - x0.mean()
        slope = float((centred * (held_out - held_out.mean())).sum() / centred.square().sum())
        numbers = f"{float(error.square().mean()):.4f} | {float(error.mean()):.3f} | {slope:.3f}"
        print(f"| {t:g} | {float(level.sigma / level.alpha):.3g} | {numbers} |", flush=True)

    distances, ids = Distances.to_training_images(data, compute), torch.arange(args.n)
    sampled = model.default_labels(ids, 0, stratified=False)
    changes = {
        "recipe": ({}, no_wrapper),
        "dpmpp-2m-sde": ({"sample.sampler": "dpmpp-2m-sde"}, no_wrapper),
        "no clipping": ({"sample.clip": False}, no_wrapper),
        "cluster means at t >= 0.75": ({}, cluster_means(means.to(compute.device), 0.75)),
        **{f"predicted noise times {f:g}": ({}, scaled_noise(f)) for f in (0.98, 0.99, 1.01, 1.02)},
    }
    real = data.train.get(torch.arange(min(10_000, len(data.train))))
    brightness, black = float(real.float().mean()) / 255, float((real == 0).double().mean())
    print(f"\ntraining images: mean brightness {brightness:.4f}, black {black:.3f}")
    print("\n| steps | change | Frechet | kernel x 1000 | mean brightness | black | Frechet without haze |")
    print("|---|---|---|---|---|---|---|")
    for steps in map(int, args.steps.split(",")):
        for name, (keys, wrap) in changes.items():
            config = change(model.recipe, {"sample.steps": steps, "sample.tuned": False} | keys).sample
            run = sample_steps(model, config, compute, ids=ids, batch=128, label=sampled, wrap=wrap)
            found = distances(images := collect(run).images)
            brightness, black = float(images.float().mean()) / 255, float((images == 0).double().mean())
            cleared = distances(images.where(images > HAZE, 0))
            print(
                f"| {steps} | {name} | {cells(found, 'frechet', 2)} | {cells(found, 'kernel', 1)} |"
                f" {brightness:.4f} | {black:.3f} | {cells(cleared, 'frechet', 2)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
