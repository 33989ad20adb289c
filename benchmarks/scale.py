"""Time and memory of a step against image size, batch size, width, size of the data set and number of processes.

python benchmarks/scale.py [--sides 16,32,64] [--batches 8,32,128] [--batch 32] [--widths 32]
    [--sets 1000,1000000] [--processes 1,2] [--steps N] [--device cpu] [--json FILE]

Each row is measured in a process of its own, which trains a small U-Net on random pixels: the median step time, the
processor time of a step in one process, which other programs disturb less, the fraction of the loop outside of loss,
backward pass, clipping, optimizer and EMA, and the peak memory (of the GPU, or of the process beyond what it had before
the first step). Each image size has two rows, without and with network.recompute.
The last line compares the sizes of the data set in alternating steps of one process, which is more accurate on a busy
machine.
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
from header import GENERAL_UNET, header

from fromnoise import config as recipes
from fromnoise.data import Data, MemoryImages
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.training.loop import TrainingLoop
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


_WARMUP_STEPS = 2  # not timed


def make_trainer(config: dict[str, Any]) -> TrainingLoop:
    """A loop of a small U-Net on random pixels."""
    from accelerate import Accelerator

    side, batch, count = config["side"], config["batch"], config["count"]
    changes = {"network.recompute": config["recompute"], "train.batch": batch, "train.steps": config["steps"]}
    changes["network.width"] = config["width"]
    recipe = recipes.load(GENERAL_UNET, BASE | changes)
    pixels = torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8)
    data = Data(MemoryImages(pixels), MemoryImages(pixels[:2]), None, (1, side, side), "", 0)
    compute = select_device(config["device"])
    accelerator = Accelerator(cpu=compute.device.type == "cpu", mixed_precision="no", device_placement=False)
    return TrainingLoop(build(recipe, DatasetInfo((1, side, side))), data, compute, accelerator)


def measure_alternately(rows: list[dict[str, Any]]) -> tuple[list[float], float]:
    """Median step time of each row, with alternating steps in this process, and the ratio of the last to the first."""
    seconds: list[list[float]] = []
    runs = [make_trainer(config).run() for config in rows]
    for _ in range(rows[0]["steps"]):
        seconds.append([])
        for run in runs:
            start = time.perf_counter()
            next(run)
            seconds[-1].append(time.perf_counter() - start)
    timed = seconds[_WARMUP_STEPS:]
    medians = [statistics.median(step) for step in zip(*timed, strict=True)]
    return medians, statistics.median(step[-1] / step[0] for step in timed)


def measure_here(config: dict[str, Any]) -> dict[str, Any]:
    """Measure one row in this process."""
    loop = make_trainer(config)
    cuda = loop.compute.device.type == "cuda"
    inside = [0.0]  # seconds in loss, backward pass, clipping, optimizer and EMA
    for owner, name in (
        (loop, "_backward"),
        (loop.optimizer_step, "clip"),
        (loop.optimizer_step, "step"),
        (loop.ema, "update"),
    ):
        function = getattr(owner, name)

        def timed(*args: Any, function: Any = function) -> Any:
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                inside[0] += time.perf_counter() - start

        setattr(owner, name, timed)
    memory_before, steps, processor, gpu_memory = memory(), [], [], 0.0
    start = timing_start = time.perf_counter()
    spent = time.process_time()
    for report in loop.run():
        now = time.perf_counter()
        steps.append(now - start)
        processor.append(time.process_time() - spent)
        if report.step == _WARMUP_STEPS:
            inside[0], timing_start = 0.0, now
        gpu_memory, start, spent = report.timing["memory_mb"], now, time.process_time()
    total = time.perf_counter() - timing_start
    peak = gpu_memory if cuda else memory(peak=True) - memory_before
    return {
        "seconds": statistics.median(steps[_WARMUP_STEPS:]),
        "processor_seconds": statistics.median(processor[_WARMUP_STEPS:]),
        "outside": 1 - inside[0] / total,
        "memory_mb": peak,
        "parameters": loop.model.parameters,
    }


def memory(peak: bool = False) -> float:
    """Memory of this process in MB: now, or its peak."""
    key = "VmHWM" if peak else "VmRSS"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def measure(config: dict[str, Any], processes: int, script: str = __file__) -> dict[str, Any]:
    """Measure one row in separate processes of a script, which takes it as ``--one``."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [*launcher, script, "--one", json.dumps(config)], capture_output=True, text=True, env=os.environ, check=False
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
    parser.add_argument("--batch", type=int, default=32, help="of the rows that vary something else")
    parser.add_argument("--widths", default="32")
    parser.add_argument("--sets", default="1000,1000000")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure_here(json.loads(args.one))), flush=True)
        return
    base = {"side": 16, "batch": args.batch, "width": 32, "count": 1000, "recompute": False}
    base |= {"steps": args.steps, "device": args.device}

    def listed(words: str) -> list[int]:
        return [int(word) for word in words.split(",")]

    rows = [base | {"side": side, "recompute": recompute} for side in listed(args.sides) for recompute in (False, True)]
    rows += [base | {"batch": batch} for batch in listed(args.batches)]
    rows += [base | {"width": width} for width in listed(args.widths) if width != base["width"]]
    sets = [base | {"side": 8, "count": count, "steps": 4 * args.steps} for count in listed(args.sets)]
    rows += sets
    print(header())
    print(select_device(args.device).describe())
    titles = "side | batch | parameters | images | recompute | processes | s a step | CPU s | outside | memory MB"
    print(f"| {titles} |\n" + "|---" * 10 + "|")
    found = []
    for config, processes in [(row, 1) for row in rows] + [(base, count) for count in listed(args.processes)]:
        measured = measure(config, processes)
        found.append(config | measured | {"processes": processes})
        print(
            f"| {config['side']} | {config['batch']} | {measured['parameters']:,} | {config['count']:,} "
            f"| {'yes' if config['recompute'] else 'no'} | {processes} "
            f"| {measured['seconds']:.4f} | {measured['processor_seconds']:.4f} "
            f"| {measured['outside']:.1%} | {measured['memory_mb']:.0f} |",
            flush=True,
        )
    medians, ratio = measure_alternately(sets)
    shown = ", ".join(f"{config['count']:,}: {s:.4f} s" for config, s in zip(sets, medians, strict=True))
    print(f"images, side 8, alternating steps: {shown}; the last to the first {ratio:.3f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
