"""Does a learned variance have a better likelihood than a fixed one with the same budget? Three seeds of each.

python benchmarks/variance.py [--folder DIR] [--steps N] [-n N]

Trains six small models on handwritten digits, 8x8, with the cosine schedule and T = 250: with fixed variance (L_simple)
or learned variance (L_hybrid, Nichol and Dhariwal 2021), everything else equal, seeds 0 to 2. Measures the full
variational bound on held-out images; models with fixed variance are measured with the small and with the large one,
and the better of the two is compared.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from header import GENERAL_UNET, header

from fromnoise import config as recipes
from fromnoise.checkpoint import load_model
from fromnoise.config.recipe_data import open_data
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.likelihood import LikelihoodEvaluator
from fromnoise.training.run import train
from fromnoise.utils.device import select_device

COMMON = {
    "data.source": "digits",
    "data.size": "auto",
    "data.flip": False,
    "network.width": 32,
    "network.multipliers": [1, 2],
    "network.blocks": 1,
    "network.attention_resolutions": [],
    "network.dropout": 0.0,
    "network.zero_output": True,
    "diffusion.schedule": "cosine",
    "diffusion.schedule.steps": 250,
    "diffusion.target": "eps",
    "loss.distance": "mse",
    "loss.time_sampler": "stratified",
    "train.batch": 64,
    "train.lr": 1e-3,
    "train.decay": "linear",
    "train.decay_from": 0.3,
    "train.previews": 0,
    "train.evaluations": 2,
    "ema.decays": [],
    "ema.widths": [0.1],
    "sample.count": 0,
}
KINDS = {
    "fixed": {"loss.weighting": "constant"},
    "learned": {"loss.objective": "hybrid", "diffusion.learned_variance": True},
}


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/variance"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("-n", type=int, default=90)
    args = parser.parse_args()
    gains, compute = [], select_device("cpu", "fp32")
    rows = []
    for seed in range(3):
        bits = {}
        for kind, keys in KINDS.items():
            out = args.folder / f"{kind}-{seed}"
            train(
                recipes.load(GENERAL_UNET, COMMON | keys | {"train.seed": seed, "train.steps": args.steps}),
                out,
                device="cpu",
            )
            model = load_model(out).model
            compute.to_device(model.denoiser)
            data = open_data(model.recipe, lambda line: None)
            pixels = data.held_out.get(torch.arange(min(args.n, len(data.held_out))))
            for variance in (None,) if kind == "learned" else (0.0, 1.0):
                config = model.recipe.sample.model_copy(update={"sampler": {"kind": "ancestral", "variance": variance}})
                evaluator = LikelihoodEvaluator(model, compute, batch=len(pixels), config=config)
                found = Estimate.mean_of(evaluator.bound(pixels, None, None).each)
                name = kind if variance is None else f"fixed, {'large' if variance else 'small'}"
                bits[name] = found.value
                rows.append(f"seed {seed}  {name:13} {found.value:.4f} +- {found.error:.4f} bits/dim (n = {found.n})")
        gains.append(min(v for k, v in bits.items() if k != "learned") - bits["learned"])
    print(header())
    print("\n".join(rows))
    error = statistics.stdev(gains) / len(gains) ** 0.5
    print(f"the learned variance saves {statistics.mean(gains):.4f} +- {error:.4f} bits/dim over {len(gains)} seeds")


if __name__ == "__main__":
    main()
