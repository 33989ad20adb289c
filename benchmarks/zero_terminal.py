"""Effect of a non-zero terminal SNR on brightness: a data set of black and white images.

python benchmarks/zero_terminal.py [--steps N] [-n N] [--share S] [--size SIDE]

A small U-Net is trained on all-black and all-white images with the linear schedule of Ho et al. 2020, and with the same
rescaled to zero terminal SNR (Lin et al. 2024). Prints the share of white samples, and how black or white the samples
are.
"""

from __future__ import annotations

import argparse

import torch
from header import GENERAL_UNET, header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import Model, build
from fromnoise.pipeline import sample_steps
from fromnoise.utils.device import select_device

SMALL = {
    "diffusion.schedule": "linear",
    "network.width": 16,
    "network.multipliers": [1, 2],
    "network.blocks": 1,
    "network.blocks_up": 1,
    "network.attention_resolutions": [],
    "network.middle_attention": True,  # brightness is global
    "network.groups": 4,
    "network.conditioning": "scale-shift",
    "network.zero_output": True,
    "network.patch": 2,
    "sample.sampler": "ddim",
    "sample.clip": False,
    "loss.time_sampler": "stratified",
    "loss.weighting": "constant",
}
VARIANTS = {
    "linear, target eps": {"diffusion.target": "eps"},
    "linear, target v": {"diffusion.target": "v"},
    "linear with zero terminal SNR, target v": {"diffusion.target": "v", "diffusion.zero_terminal_snr": True},
    "linear with zero terminal SNR, target x0": {"diffusion.target": "x0", "diffusion.zero_terminal_snr": True},
}


def train(variant: dict[str, object], share: float, side: int, steps: int, seed: int = 0) -> Model:
    """A model of constant images, a ``share`` of which is white and the rest black."""
    model = build(recipes.load(GENERAL_UNET, SMALL | variant), DatasetInfo((1, side, side)), seed=seed)
    compute = select_device("cpu", "fp32")
    compute.to_device(model.denoiser)
    objective = model.training_loss()
    optimizer = torch.optim.Adam(model.denoiser.parameters(), 2e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, 2 * (1 - step / steps))
        positions = torch.arange(32) + 32 * step
        u = torch.rand(32, generator=torch.Generator().manual_seed(step))
        x0 = torch.where(u < share, 1.0, -1.0).reshape(-1, 1, 1, 1).expand(-1, 1, side, side)
        objective(x0.contiguous(), positions).weighted.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.denoiser.eval()
    return model


def brightness(model: Model, n: int, steps: int = 50) -> Tensor:
    """Mean of each of ``n`` samples, from -1 black to 1 white, before rounding to pixels."""
    config = model.recipe.sample.model_copy(update={"steps": steps})
    steps_of_samples = sample_steps(model, config, select_device("cpu", "fp32"), ids=torch.arange(n), batch=200)
    return torch.cat([s.step.x for s in steps_of_samples if s.last]).double().mean((1, 2, 3))


def main() -> None:
    """Train, sample and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--size", type=int, default=32)
    args = parser.parse_args()
    print(header())
    print(f"{args.n} images of {args.size}x{args.size}, {args.share:.0%} white; {args.steps} steps of batch 32")
    for name, variant in VARIANTS.items():
        mean = brightness(train(variant, args.share, args.size, args.steps), args.n)
        white = float((mean > 0).double().mean())
        error = (args.share * (1 - args.share) / args.n) ** 0.5
        saturated = float((mean.abs() > 0.95).double().mean())
        print(
            f"{name:42} white {white:.3f} +- {error:.3f}; |brightness| mean {float(mean.abs().mean()):.3f}, "
            f"within 5 % of black or white {saturated:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
