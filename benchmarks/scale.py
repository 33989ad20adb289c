"""Seconds and memory of a training step against image side, batch, size of the data set and processes.

python benchmarks/scale.py [--sides 16,32,64] [--batches 8,32,128] [--sets 1000,1000000] [--processes 1,2]
    [--steps N] [--device cpu] [--json FILE]

Each row is a process of its own, which trains a small U-Net on random pixels: the median step, the share of the loop
outside of loss, backward pass, clipping, optimiser and average, and the peak memory (of the GPU, or of the process
beyond what it had before the first step). Two rows a side: blocks as usual, and with network.recompute. The last line
compares the sizes of the data set by turns in one process, which rows one after another cannot do on a noisy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from header import header

from fromnoise import config as recipes
from fromnoise.data import Data, MemoryImages
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.training.trainer import Trainer
from fromnoise.utils.device import select_device

BASE = {
    "network.width": 32,
    "network.multipliers": [1, 2],
    "network.blocks": 2,
    "network.attention_resolutions": [],
    "network.middle_attention": False,
    "diffusion.schedule": "cosine",
    "data.flip": False,
    "train.evaluations": 1,
    "train.held_out": 1,
    "train.previews": 0,
}


_WARM = 2  # steps that are not timed


def made(config: dict[str, Any]) -> Trainer:
    """A trainer of a small U-Net on random pixels."""
    from accelerate import Accelerator

    side, batch, count = config["side"], config["batch"], config["count"]
    changes = {"network.recompute": config["recompute"], "train.batch": batch, "train.steps": config["steps"]}
    recipe = recipes.load("unet", BASE | changes)
    pixels = torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8)
    data = Data(MemoryImages(pixels), MemoryImages(pixels[:2]), None, (1, side, side), "", 0)
    compute = select_device(config["device"])
    accelerator = Accelerator(cpu=compute.device.type == "cpu", mixed_precision="no", device_placement=False)
    return Trainer(build(recipe, DatasetInfo((1, side, side))), data, compute, accelerator)


def by_turns(rows: list[dict[str, Any]]) -> tuple[list[float], float]:
    """Median step of each row, their steps one after another in this process; and the last row's to the first's."""
    took: list[list[float]] = []
    runs = [made(config).run() for config in rows]
    for _ in range(rows[0]["steps"]):
        took.append([])
        for run in runs:
            begun = time.perf_counter()
            next(run)
            took[-1].append(time.perf_counter() - begun)
    timed = took[_WARM:]
    medians = [statistics.median(step) for step in zip(*timed, strict=True)]
    return medians, statistics.median(step[-1] / step[0] for step in timed)


def one(config: dict[str, Any]) -> dict[str, Any]:
    """Measure one row in this process."""
    trainer = made(config)
    cuda = trainer.compute.device.type == "cuda"
    inside = [0.0]
    for owner, name in (
        (trainer, "_backward"),
        (trainer.optimizer_step, "clip"),
        (trainer.optimizer_step, "step"),
        (trainer.ema, "update"),
    ):
        plain = getattr(owner, name)

        def timed(*args: Any, plain: Any = plain) -> Any:
            begun = time.perf_counter()
            try:
                return plain(*args)
            finally:
                inside[0] += time.perf_counter() - begun

        setattr(owner, name, timed)
    before, steps, reported = memory(), [], 0.0
    begun = whole = time.perf_counter()
    for report in trainer.run():
        now = time.perf_counter()
        steps.append(now - begun)
        if report.step == _WARM:
            inside[0], whole = 0.0, now
        reported, begun = report.timing["memory_mb"], now
    spent = time.perf_counter() - whole
    peak = reported if cuda else memory(peak=True) - before
    return {"seconds": statistics.median(steps[_WARM:]), "outside": 1 - inside[0] / spent, "memory_mb": peak}


def memory(peak: bool = False) -> float:
    """Of this process, in MB: now, or at most so far."""
    wanted = "VmHWM" if peak else "VmRSS"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(wanted))
    return int(line.split()[1]) / 1024


def measure(config: dict[str, Any], processes: int) -> dict[str, Any]:
    """One row, in processes of its own."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [*start, __file__, "--one", json.dumps(config)], capture_output=True, text=True, env=os.environ, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(done.stderr)
    return json.loads(lines[0])


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="16,32,64")
    parser.add_argument("--batches", default="8,32,128")
    parser.add_argument("--sets", default="1000,1000000")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(json.loads(args.one))), flush=True)
        return
    usual = {"side": 16, "batch": 32, "count": 1000, "recompute": False, "steps": args.steps, "device": args.device}

    def listed(words: str) -> list[int]:
        return [int(word) for word in words.split(",")]

    rows = [usual | {"side": side, "recompute": again} for side in listed(args.sides) for again in (False, True)]
    rows += [usual | {"batch": batch} for batch in listed(args.batches)]
    sets = [usual | {"side": 8, "count": count, "steps": 4 * args.steps} for count in listed(args.sets)]
    rows += sets
    print(header())
    print(select_device(args.device).describe())
    print("| side | batch | images | recompute | processes | s a step | outside | memory MB |\n" + "|---" * 8 + "|")
    found = []
    for config, processes in [(row, 1) for row in rows] + [(usual, count) for count in listed(args.processes)]:
        got = measure(config, processes)
        found.append(config | got | {"processes": processes})
        print(
            f"| {config['side']} | {config['batch']} | {config['count']:,} | {'yes' if config['recompute'] else 'no'} "
            f"| {processes} "
            f"| {got['seconds']:.4f} | {got['outside']:.1%} | {got['memory_mb']:.0f} |",
            flush=True,
        )
    medians, ratio = by_turns(sets)
    shown = ", ".join(f"{config['count']:,}: {s:.4f} s" for config, s in zip(sets, medians, strict=True))
    print(f"images, side 8, step by step in turn: {shown}; the last to the first {ratio:.3f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
