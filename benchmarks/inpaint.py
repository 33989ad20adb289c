"""Compare the solvers of inverse problems on a Gaussian with a known posterior, and on held-out images of a run.

python benchmarks/inpaint.py [RUN] [-n N] [--gaussian N] [--budget E] [--image PNG]

Gaussian: error of mean and covariance of the sampled unknown coordinates against p(unknown | known), in standard
errors, at equal numbers of denoiser evaluations; a backward pass counts as two. Images: the middle half of held-out
images is inpainted; root mean square error of the known pixels and, against the original, of the unknown ones: for one
sample and for the mean of four, in the range [0, 1]. A sample of p(unknown | known) has about twice the squared error
of the mean.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from header import header
from torch import Tensor

from fromnoise import checkpoint
from fromnoise.config.recipe_data import open_data
from fromnoise.data import to_float
from fromnoise.diffusion import DDIM, Noise, initial_noise, sampling, sampling_loop, schedules
from fromnoise.diffusion.inverse import (
    DDNM,
    MMPS,
    InverseSolver,
    LinearOperator,
    Mask,
    PiGDM,
    RePaint,
    downsampling,
    gaussian_blur,
)
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.editing import EditConfig, restore
from fromnoise.model import Model
from fromnoise.pipeline import collect
from fromnoise.reporting import image_io
from fromnoise.utils.device import select_device

SOLVERS: dict[str, tuple[InverseSolver, int]] = {
    "ddnm": (DDNM(), 1),
    "repaint, 1 resampling": (RePaint(1), 1),
    "repaint, 10 resamplings": (RePaint(10), 10),
    "pigdm": (PiGDM(), 3),
    "mmps, 1 iteration": (MMPS(1), 5),
    "mmps, 3 iterations": (MMPS(3), 9),
}
"""By title: the solver, and its evaluations a step."""


def gaussian(n: int, budget: int) -> None:
    """Print the table of the exact problem: 16 correlated coordinates, 6 of them known."""
    like = torch.empty(0, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    root = torch.randn(16, 16, generator=g, dtype=torch.float64) * 0.25
    covariance = root @ root.T + 0.02 * torch.eye(16, dtype=torch.float64)
    mean = torch.randn(16, generator=g, dtype=torch.float64) * 0.3
    true = GaussianMixture(torch.ones(1, dtype=torch.float64), mean[None], covariance[None])
    known = torch.arange(16) < 6
    y = torch.where(known, mean + root @ torch.randn(16, generator=g, dtype=torch.float64), 0.0)
    gain = covariance[~known][:, known] @ torch.linalg.inv(covariance[known][:, known])
    want = mean[~known] + gain @ (y[known] - mean[known])
    want_covariance = covariance[~known][:, ~known] - gain @ covariance[known][:, ~known]
    table = schedules.linear(1000)
    print(f"Gaussian, {n} samples, {budget} evaluations each; largest error in standard errors, and relative error")
    operator, measured = Mask(known.reshape(1, 4, 4)), y.reshape(1, 1, 4, 4)
    for title, (solver, cost) in (SOLVERS | {"mmps, 6 iterations": (MMPS(6), 15)}).items():
        denoise = solver.denoiser(true, operator, measured)
        sampler = solver.sampler(DDIM(1.0), operator, measured)
        noise = Noise(0, torch.arange(n))
        x = initial_noise((1, 4, 4), noise, like)
        steps = max(2, budget // cost)
        with torch.inference_mode():
            for step in sampling_loop(denoise, sampler, sampling.uniform(table, steps), x, noise):
                x = step.x
        x = x.flatten(1)[:, ~known]
        off = (x.mean(0) - want).abs() / (want_covariance.diagonal() / n).sqrt()
        errors = ((want_covariance.diagonal()[:, None] * want_covariance.diagonal() + want_covariance**2) / n).sqrt()
        cov = torch.cov(x.T)
        print(
            f"  {title:22} {steps:5} steps  mean {float(off.max()):7.1f}  "
            f"covariance {float(((cov - want_covariance).abs() / errors).max()):7.1f}  relative: mean "
            f"{float((x.mean(0) - want).norm() / (want - mean[~known]).norm()):.3f}, covariance "
            f"{float((cov - want_covariance).norm() / want_covariance.norm()):.3f}",
            flush=True,
        )


def images(model: Model, x0: Tensor, operator: LinearOperator, budget: int, problem: str) -> dict[str, Tensor]:
    """Print the table of one problem on real images; the samples of each solver."""
    compute = select_device()
    compute.to_device(model.denoiser)
    y, n = operator.forward(x0), len(x0)
    size = (x0.shape[-2], x0.shape[-1])
    unknown = torch.ones_like(x0, dtype=torch.bool)
    if isinstance(operator, Mask):
        unknown = ~operator.known.expand_as(x0)
    print(f"{problem}: {n} held-out images, {budget} evaluations each")
    sampled = {}
    for title, (solver, cost) in SOLVERS.items():
        changes = {"sampler": {"kind": "ddim", "eta": 1.0}, "steps": max(2, budget // cost)}
        config = model.recipe.sample.model_copy(update=changes)
        start, tries = time.perf_counter(), []
        for seed in range(4):
            edit = EditConfig(model, config, compute, torch.arange(n), seed, None, n)
            tries.append(to_float(collect(restore(edit, operator, y, size, solver)).images))
        spent = time.perf_counter() - start

        def error(x: Tensor) -> float:
            return float((((x - x0) / 2)[unknown] ** 2).mean().sqrt())

        apart = float(((operator.forward(tries[0]) - y) / 2).abs().max())
        sampled[title] = tries[0]
        print(
            f"  {title:22} {config.steps:4} steps  unknown: one sample {error(tries[0]):.4f}, "
            f"mean of four {error(torch.stack(tries).mean(0)):.4f}; known: largest error {apart:.4f}; "
            f"{spent / 4 / n:.2f} s an image",
            flush=True,
        )
    return sampled


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?")
    parser.add_argument("-n", type=int, default=32)
    parser.add_argument("--gaussian", type=int, default=2000)
    parser.add_argument("--budget", type=int, default=120)
    parser.add_argument("--image", type=Path)
    args = parser.parse_args()
    print(header())
    if args.gaussian:
        gaussian(args.gaussian, 5 * args.budget)
    if args.run is None:
        return
    model = checkpoint.load_model(args.run).model
    data = open_data(model.recipe, lambda line: None)
    pixels = data.held_out.get(torch.arange(args.n))
    x0 = to_float(pixels)
    _, height, width = data.shape
    hole = torch.ones(height, width, dtype=torch.bool)
    hole[height // 4 : -(height // 4), width // 4 : -(width // 4)] = False
    problems: dict[str, LinearOperator] = {
        "middle masked": Mask(hole),
        "downsampled by 4": downsampling(height, width, 4),
        "blurred by 1.5 pixels": gaussian_blur(height, width, 1.5),
    }
    panels = [("held out", image_io.grid(pixels[:8], columns=1))]
    for problem, operator in problems.items():
        sampled = images(model, x0, operator, args.budget, problem)
        if args.image:
            y = operator.forward(x0)
            if y.shape != x0.shape:
                y = operator.pseudo_inverse(y)
                y = y / y.abs().amax() * x0.abs().amax()
            shown_images = {
                "measurement": y,
                **{k: sampled[k] for k in ("repaint, 10 resamplings", "mmps, 3 iterations")},
            }
            for name, x in shown_images.items():
                shown = (x[:8].clamp(-1, 1).add(1) * 127.5).round().to(torch.uint8)
                panels.append(
                    (f"{problem}: {name}" if name == "measurement" else name, image_io.grid(shown, columns=1))
                )
    if args.image:
        image_io.save(image_io.side_by_side(panels), args.image)


if __name__ == "__main__":
    main()
