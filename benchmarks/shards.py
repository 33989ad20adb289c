"""Training on shards against the same images in memory: order, time of a step, memory, and time until a run goes on.

python benchmarks/shards.py [--count 1000000] [--side 16] [--batch 48] [--steps 60] [--processes 1,3]
    [--encoding auto] [--folder FOLDER] [--device cpu] [--json FILE]

Random images are packed by `fromnoise data pack` once, and kept in the folder. For each number of processes, two loops
of a small U-Net take alternating steps in the same processes, one on the images in memory and one on the shards; the
ratio is the median over pairs of steps. Before that, batches of both are compared at positions of several epochs.
Memory and the time until the first batch of a resumed run are those of a process that reads shards alone.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from header import GENERAL_UNET, header
from scale import BASE, measure, memory

from fromnoise import config as recipes
from fromnoise.data import BatchStream, Data, load
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.data.shards.index import index_tar
from fromnoise.model import build
from fromnoise.training.loop import TrainingLoop
from fromnoise.utils.device import select_device

_WARMUP_PAIRS = 6  # not timed
_COMPARED = 20  # batches compared at each position
_MEMORY_BATCHES = 2000
RESUMED = 500_000_000
"""A position of the stream that a run of many epochs resumes from."""


def quiet(line: str) -> None:
    """Take a line of a log."""


def prepare_shards(args: argparse.Namespace) -> dict[str, Any]:
    """Write random images with labels, and pack them, unless both are there."""
    folder: Path = args.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "images.npz").exists():
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (args.count, args.side, args.side), dtype=np.uint8)
        np.savez(folder / "images.npz", images=images, labels=rng.integers(0, 10, args.count))
    packed_before = (folder / "shards" / "index.json").exists()
    command = [sys.executable, "-m", "fromnoise", "data", "pack", folder / "images.npz", "--out", folder / "shards"]
    start = time.perf_counter()
    subprocess.run([*command, "--encoding", args.encoding], check=True, stdout=sys.stderr)
    shards = list((folder / "shards").glob("*.tar"))
    return {
        "pack_seconds": None if packed_before else time.perf_counter() - start,
        "shards": len(shards),
        "bytes": sum(map(os.path.getsize, shards)),
    }


def open_both(folder: Path) -> tuple[Data, Data]:
    """The images in memory and in shards."""
    return load(str(folder / "images.npz"), log=quiet), load(str(folder / "shards"), memory_limit=0, log=quiet)


def make_loop(data: Data, config: dict[str, Any]) -> TrainingLoop:
    """A loop of a small U-Net."""
    from accelerate import Accelerator

    recipe = recipes.load(GENERAL_UNET, BASE | {"train.batch": config["batch"], "train.steps": config["steps"]})
    compute = select_device(config["device"])
    accelerator = Accelerator(cpu=compute.device.type == "cpu", mixed_precision="no", device_placement=False)
    return TrainingLoop(build(recipe, DatasetInfo(data.shape)), data, compute, accelerator)


def digest_of(data: Data, start: int, batch: int, rank: int, world: int) -> str:
    """Digest of the pixels, labels and indices of the batches of one process from a position on."""
    sha = hashlib.sha256()
    batches = BatchStream(data.train, 0, True, workers=2).iterate(start, batch // world, rank, world)
    for found in itertools.islice(batches, _COMPARED):
        assert found.labels is not None
        for tensor in (found.pixels, found.labels, found.indices):
            sha.update(tensor.numpy().tobytes())
    batches.close()
    return sha.hexdigest()


def measure_steps(config: dict[str, Any]) -> dict[str, Any]:
    """Compare the order, then take alternating steps, in this process."""
    both = open_both(Path(config["folder"]))
    loops = [make_loop(data, config) for data in both]
    accelerator = loops[0].accelerator
    rank, world = accelerator.process_index, accelerator.num_processes
    starts = (0, len(both[0].train) - 5 * config["batch"], RESUMED)
    equal = all(len({digest_of(data, start, config["batch"], rank, world) for data in both}) == 1 for start in starts)
    runs, pairs = [loop.run() for loop in loops], []
    for _ in range(config["steps"]):
        order = (0, 1) if len(pairs) % 2 else (1, 0)
        seconds = {}
        for k in order:
            start = time.perf_counter()
            next(runs[k])
            seconds[k] = time.perf_counter() - start
        pairs.append([seconds[0], seconds[1]])
    timed = pairs[_WARMUP_PAIRS:-1]  # the last step is followed by an evaluation
    equal = bool(torch.as_tensor(accelerator.gather(torch.tensor([equal]))).all())
    memory_seconds, shard_seconds = (statistics.median(column) for column in zip(*timed, strict=True))
    ratios = sorted(pair[1] / pair[0] for pair in timed)
    quarter = len(ratios) // 4
    return {
        "order_equal": equal,
        "in_memory": memory_seconds,
        "shards": shard_seconds,
        "ratio": statistics.median(ratios),
        "quartiles": [ratios[quarter], ratios[-1 - quarter]],
    }


def measure_memory(config: dict[str, Any]) -> dict[str, Any]:
    """Open the shards alone, go on in the middle of a run, and read batches, in this process."""
    before, start = memory(), time.perf_counter()
    data = load(str(Path(config["folder"]) / "shards"), memory_limit=0, log=quiet)
    opened = time.perf_counter()
    batches = BatchStream(data.train, 0, workers=2).iterate(RESUMED, config["batch"])
    next(batches)
    first = time.perf_counter()
    for _ in itertools.islice(batches, 100):
        pass
    early, begin = memory(), time.perf_counter()
    for _ in itertools.islice(batches, _MEMORY_BATCHES):
        pass
    seconds = time.perf_counter() - begin
    batches.close()
    grown = memory() - early
    shard = sorted((Path(config["folder"]) / "shards").glob("*.tar"))[0]
    begin = time.perf_counter()
    with open(shard, "rb") as file:
        scanned = len(index_tar(file, shard.stat().st_size))
    return {
        "scanned": scanned,
        "scan_seconds": time.perf_counter() - begin,
        "open_seconds": opened - start,
        "first_batch_seconds": first - opened,
        "memory_mb": early - before,
        "growth_mb": grown,
        "images_per_second": _MEMORY_BATCHES * config["batch"] / seconds,
    }


def run_here(config: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process."""
    return measure_memory(config) if config["what"] == "memory" else measure_steps(config)


def main() -> None:
    """Pack, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--steps", type=int, default=60, help="pairs of steps")
    parser.add_argument("--processes", default="1,3")
    parser.add_argument("--encoding", default="auto")
    parser.add_argument("--folder", type=Path, default=Path("build/shards"))
    parser.add_argument("--device")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_here(json.loads(args.one))), flush=True)
        return
    print(header())
    print(select_device(args.device).describe())
    packed = prepare_shards(args)
    print(
        f"{args.count:,} images of {args.side}x{args.side} in {packed['shards']} shards, "
        f"{packed['bytes'] / 2**30:.3g} GiB; packed "
        + (f"in {packed['pack_seconds']:.0f} s" if packed["pack_seconds"] is not None else "before")
    )
    base = {"folder": str(args.folder), "batch": args.batch, "steps": args.steps, "device": args.device}
    alone = measure(base | {"what": "memory"}, 1, __file__)
    print(
        f"opened in {alone['open_seconds']:.1f} s, first batch at position {RESUMED:,} after "
        f"{alone['first_batch_seconds']:.2f} s more; {alone['memory_mb']:.0f} MB, which grew by "
        f"{alone['growth_mb']:.1f} MB over {_MEMORY_BATCHES * args.batch:,} images read; "
        f"{alone['images_per_second']:,.0f} images a second"
    )
    print(f"the index of a shard of {alone['scanned']:,} images is made in {alone['scan_seconds']:.1f} s")
    rows = []
    print(
        "\n| processes | same order | s a step in memory | s a step on shards | ratio | quartiles |\n"
        + "|---" * 6
        + "|"
    )
    for processes in map(int, args.processes.split(",")):
        found = measure(base | {"what": "steps"}, processes, __file__)
        rows.append(found | {"processes": processes})
        same, (low, high) = "yes" if found["order_equal"] else "NO", found["quartiles"]
        print(
            f"| {processes} | {same} | {found['in_memory']:.4f} | {found['shards']:.4f} | {found['ratio']:.3f} "
            f"| {low:.3f} to {high:.3f} |",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps({"packed": packed, "alone": alone, "steps": rows}, indent=1))


if __name__ == "__main__":
    main()
