"""Solvers of inverse problems, compared: on a Gaussian, whose answer is known, and on held-out images of a run.

python benchmarks/inpaint.py [RUN] [-n N] [--gaussian N] [--budget E] [--picture PNG]

Gaussian: how far mean and covariance of the drawn unseen coordinates are from those of p(unseen | seen), in standard
errors, at equal evaluations of the denoiser; a gradient is counted as two. Images: the middle half of held-out images
is painted anew; the error of the seen pixels, and of the unseen ones to the original: of one drawing and of the mean of
four, in the range [0, 1]. A drawing of p(unseen | seen) has about twice the squared error of the best guess.
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
from fromnoise.diffusion.inverse.operators import Mask, Operator, blur, downsample
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.editing import EditRun, restore
from fromnoise.model import Model, solver
from fromnoise.pipeline import collect
from fromnoise.reporting import image_io
from fromnoise.utils.device import select_device

# name, effort, evaluations a step
METHODS = [
    ("projected", None, 1),
    ("repaint", 1, 1),
    ("repaint", 10, 10),
    ("pigdm", None, 3),
    ("posterior", 1, 5),
    ("posterior", 3, 9),
]


def title(name: str, iterations: int | None) -> str:
    """As a row is called."""
    return f"{name}, effort {iterations}" if iterations else name


def gaussian(n: int, budget: int) -> None:
    """The table of the exact problem: 16 correlated coordinates, 6 of them seen."""
    like = torch.empty(0, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    root = torch.randn(16, 16, generator=g, dtype=torch.float64) * 0.25
    covariance = root @ root.T + 0.02 * torch.eye(16, dtype=torch.float64)
    mean = torch.randn(16, generator=g, dtype=torch.float64) * 0.3
    true = GaussianMixture(torch.ones(1, dtype=torch.float64), mean[None], covariance[None])
    seen = torch.arange(16) < 6
    y = torch.where(seen, mean + root @ torch.randn(16, generator=g, dtype=torch.float64), 0.0)
    gain = covariance[~seen][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
    want = mean[~seen] + gain @ (y[seen] - mean[seen])
    spread = covariance[~seen][:, ~seen] - gain @ covariance[seen][:, ~seen]
    table = schedules.linear(1000)
    print(f"Gaussian, {n} drawings, {budget} evaluations each; largest error in standard errors, and relative error")
    for name, iterations, cost in [*METHODS, ("posterior", 6, 15)]:
        operator = Mask(seen.reshape(1, 4, 4))
        wrap, wrap_rule = solver(name, operator, y.reshape(1, 1, 4, 4), iterations)
        noise = Noise(0, torch.arange(n))
        x = initial_noise((1, 4, 4), noise, like)
        steps = max(2, budget // cost)
        with torch.inference_mode():
            for step in sampling_loop(wrap(true), wrap_rule(DDIM(1.0)), sampling.uniform(table, steps), x, noise):
                x = step.x
        x = x.flatten(1)[:, ~seen]
        off = (x.mean(0) - want).abs() / (spread.diagonal() / n).sqrt()
        errors = ((spread.diagonal()[:, None] * spread.diagonal() + spread**2) / n).sqrt()
        cov = torch.cov(x.T)
        print(
            f"  {title(name, iterations):22} {steps:5} steps  mean {float(off.max()):7.1f}  "
            f"covariance {float(((cov - spread).abs() / errors).max()):7.1f}  relative: mean "
            f"{float((x.mean(0) - want).norm() / (want - mean[~seen]).norm()):.3f}, covariance "
            f"{float((cov - spread).norm() / spread.norm()):.3f}",
            flush=True,
        )


def images(model: Model, x0: Tensor, operator: Operator, budget: int, what: str) -> dict[str, Tensor]:
    """The table of one problem on real images; the drawn images of each method."""
    compute = select_device()
    compute.to_device(model.denoiser)
    y, n = operator.forward(x0), len(x0)
    size = (x0.shape[-2], x0.shape[-1])
    unseen = torch.ones_like(x0, dtype=torch.bool)
    if isinstance(operator, Mask):
        unseen = ~operator.seen.expand_as(x0)
    print(f"{what}: {n} held-out images, {budget} evaluations each")
    drawn = {}
    for name, iterations, cost in METHODS:
        config = model.recipe.sample.model_copy(update={"sampler": "ddim", "eta": 1.0, "steps": max(2, budget // cost)})
        begun, tries = time.perf_counter(), []
        for seed in range(4):
            brush = EditRun(model, config, compute, torch.arange(n), seed, None, n)
            tries.append(to_float(collect(restore(brush, operator, y, size, name, iterations)).images))
        spent = time.perf_counter() - begun

        def error(x: Tensor) -> float:
            return float((((x - x0) / 2)[unseen] ** 2).mean().sqrt())

        apart = float(((operator.forward(tries[0]) - y) / 2).abs().max())
        drawn[title(name, iterations)] = tries[0]
        print(
            f"  {title(name, iterations):22} {config.steps:4} steps  unseen: one {error(tries[0]):.4f}, "
            f"mean of four {error(torch.stack(tries).mean(0)):.4f}; seen off by {apart:.4f} at most; "
            f"{spent / 4 / n:.2f} s an image",
            flush=True,
        )
    return drawn


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?")
    parser.add_argument("-n", type=int, default=32)
    parser.add_argument("--gaussian", type=int, default=2000)
    parser.add_argument("--budget", type=int, default=120)
    parser.add_argument("--picture", type=Path)
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
    problems: dict[str, Operator] = {
        "the middle lost": Mask(hole),
        "4 times smaller": downsample(height, width, 4),
        "blurred by 1.5 pixels": blur(height, width, 1.5),
    }
    panels = [("held out", image_io.grid(pixels[:8], columns=1))]
    for what, operator in problems.items():
        drawn = images(model, x0, operator, args.budget, what)
        if args.picture:
            left = operator.forward(x0)
            if left.shape != x0.shape:
                left = operator.inverse(left)
                left = left / left.abs().amax() * x0.abs().amax()
            made = {"given": left, **{k: drawn[k] for k in ("repaint, effort 10", "posterior, effort 3")}}
            for name, x in made.items():
                shown = (x[:8].clamp(-1, 1).add(1) * 127.5).round().to(torch.uint8)
                panels.append((f"{what}: {name}" if name == "given" else name, image_io.grid(shown, columns=1)))
    if args.picture:
        image_io.save(image_io.side_by_side(panels), args.picture)


if __name__ == "__main__":
    main()
