"""Cost of returning freed memory to the system after every step: forward and backward pass with and without.

python benchmarks/allocator.py [--rounds N] [--width W] [--threads T]

Each measurement runs in a process of its own, alternating between the two; times are CPU seconds of all threads.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch
from header import header

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.training.autosize import choose_levels
from fromnoise.utils.device import select_device
from fromnoise.utils.environment import keep_freed_memory

SHAPE, BATCH, STEPS = (1, 28, 28), 64, 8


def main() -> None:
    """Measure alternately, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=32, help="network.width of the recipe fast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", choices=("returned", "kept"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(*measure(args.width, args.threads, args.one == "kept"))
        return
    print(header())
    print(f"fast, width {args.width}, {BATCH} images of 28x28, {args.threads} threads; medians of {args.rounds} rounds")
    found: dict[str, list[tuple[float, float]]] = {"returned": [], "kept": []}
    for _ in range(args.rounds):
        for name, rows in found.items():
            words = [sys.executable, *sys.argv, "--one", name]
            seconds, faults = map(
                float, subprocess.run(words, capture_output=True, check=True, text=True).stdout.split()
            )
            rows.append((seconds, faults))
    for name, rows in found.items():
        seconds, faults = (sorted(column)[len(rows) // 2] for column in zip(*rows, strict=True))
        print(f"{name}: {seconds:.3f} CPU seconds a step, {faults:,.0f} page faults")
    ratios = sorted(b[0] / a[0] for a, b in zip(*found.values(), strict=True))
    print(f"kept / returned: {ratios[len(ratios) // 2]:.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}")


def measure(width: int, threads: int, keep: bool) -> tuple[float, float]:
    """CPU seconds and page faults of a step."""
    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    model = build(choose_levels(recipes.load("fast", {"network.width": width}), SHAPE), DatasetInfo(SHAPE))
    select_device("cpu", "fp32").to_device(model.denoiser)
    net, x = model.denoiser.network, torch.randn(BATCH, *SHAPE).to(memory_format=torch.channels_last)

    def step() -> None:
        net(x, torch.rand(BATCH)).square().mean().backward()
        net.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    faults, begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    for _ in range(STEPS):
        step()
    spent = time.process_time() - begun
    return spent / STEPS, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / STEPS


if __name__ == "__main__":
    main()
