"""Images per second of recipes for large images, interleaved: pixels at full resolution, in patches, and latents.

python benchmarks/latent_sampling.py [--side 128] [--rounds 4] [--threads 1]

The weights are initial ones, on which the speed does not depend; each recipe samples by its own settings, ``fast`` also
with patches of half their side. Prints the median over the rounds and the largest value.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from header import header

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import Model, build
from fromnoise.pipeline import collect, sample_steps
from fromnoise.training.autosize import choose_levels
from fromnoise.utils.device import ComputeConfig, select_device


def models(shape: tuple[int, int, int]) -> dict[str, tuple[Model, int]]:
    """Models by title, and how many images each samples together."""
    fast = choose_levels(recipes.load("fast"), shape)
    halved = recipes.change(
        fast, {"network.patch": max(1, fast.network.patch // 2), "network.attention_resolutions": [16]}
    )
    info = DatasetInfo(shape)
    chosen = {
        "images (pixels)": (recipes.load("images", {"data.large_recipe": ""}), 1),
        f"fast, patch {fast.network.patch}": (fast, 16),
        f"fast, patch {halved.network.patch}": (halved, 16),
        "latent": (recipes.load("latent"), 16),
    }
    return {title: (build(recipe, info), count) for title, (recipe, count) in chosen.items()}


def rate(model: Model, count: int, compute: ComputeConfig) -> float:
    """Images per second of a batch."""
    label = torch.zeros(count, dtype=torch.int64) if model.denoiser.pseudo_labels is not None else None
    start = time.perf_counter()
    steps = sample_steps(model, model.recipe.sample, compute, ids=torch.arange(count), batch=count, label=label)
    collect(steps, finite=False)
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    compute = select_device(None)
    found = models((3, args.side, args.side))
    for model, _ in found.values():
        compute.to_device(model.module)
        model.module.eval()
    rates: dict[str, list[float]] = {title: [] for title in found}
    for turn in range(args.rounds + 1):  # the first prepares
        for title, (model, count) in found.items():
            value = rate(model, count, compute)
            if turn:
                rates[title].append(value)
    print(header())
    print(f"{compute.describe()}; 3x{args.side}x{args.side}, {args.rounds} rounds interleaved")
    print("| model | M parameters | evaluations | images/s, median | largest |\n" + "|---" * 5 + "|")
    for title, (model, _) in found.items():
        parameters = sum(p.numel() for p in model.module.parameters()) / 1e6
        evaluations = model.network_evaluations(model.recipe.sample)
        print(
            f"| {title} | {parameters:.2f} | {evaluations} | {statistics.median(rates[title]):.3g} "
            f"| {max(rates[title]):.3g} |"
        )


if __name__ == "__main__":
    main()
