"""A training step on a GPU with and without CUDA graphs, and whether the numbers are equal.

python benchmarks/cuda_graphs.py [--data fashion_mnist] [--widths 64] [--batch 64] [--steps 60]

Trains recipe fast twice from the same weights, without and with graphs. Printed are the milliseconds of a step in the
second half of the steps, whether gradient norms and weights are equal to the last bit, the held-out loss of both, and
the peak memory.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from header import header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.data import Data, load
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.training import cuda_graphs
from fromnoise.training.loop import TrainingLoop
from fromnoise.utils.device import ComputeConfig, select_device


@dataclass(frozen=True)
class Outcome:
    """What a training gave."""

    milliseconds: float
    grad_norms: list[float]
    weights: Tensor
    held_out: float
    peak_mb: int


def train(data: Data, compute: ComputeConfig, width: int, batch: int, steps: int, graphs: bool) -> Outcome:
    """Train for some steps, with CUDA graphs or without."""
    enable = cuda_graphs.enable
    if not graphs:
        cuda_graphs.enable = lambda network: False
    try:
        values = {"train.minutes": None, "train.steps": steps + 4, "train.batch": batch, "network.width": width}
        model = build(recipes.load("fast", values), DatasetInfo(data.shape))
        loop = TrainingLoop(model, data, compute, Accelerator(cpu=compute.device.type == "cpu"))
    finally:
        cuda_graphs.enable = enable
    loop.fit_pseudo_labels()
    reports = loop.run()
    norms = [next(reports).grad_norm for _ in range(steps // 2)]
    start = time.perf_counter()
    norms += [next(reports).grad_norm for _ in range(steps // 2)]
    milliseconds = 1000 * (time.perf_counter() - start) / (steps // 2)
    held_out = loop.evaluate()["held_out_loss"]
    norms += [next(reports).grad_norm for _ in range(3)]  # graphs again, after a pass without
    weights = torch.cat([p.detach().flatten().float().cpu() for p in model.module.parameters()])
    peak = torch.cuda.max_memory_allocated() >> 20 if compute.device.type == "cuda" else 0
    return Outcome(milliseconds, norms, weights, held_out, peak)


def main() -> None:
    """Train, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--widths", default="64")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device")
    args = parser.parse_args()
    data, compute = load(args.data), select_device(args.device)
    print(header())
    print(f"{compute.describe()}; fast on {args.data}, batch {args.batch}")
    print(
        "| width | ms a step | with graphs | ratio | equal | held-out loss | peak MB | with graphs |\n"
        + "|---" * 8
        + "|"
    )
    for width in map(int, args.widths.split(",")):
        plain, graphed = (train(data, compute, width, args.batch, args.steps, graphs) for graphs in (False, True))
        equal = plain.grad_norms == graphed.grad_norms and torch.equal(plain.weights, graphed.weights)
        print(
            f"| {width} | {plain.milliseconds:.1f} | {graphed.milliseconds:.1f} "
            f"| {plain.milliseconds / graphed.milliseconds:.2f} | {'yes' if equal else 'NO'} "
            f"| {plain.held_out:.4f}, {graphed.held_out:.4f} | {plain.peak_mb} | {graphed.peak_mb} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
