"""Memory of a process and time of a step: weights whole in each process (DDP) and sharded over them (FSDP2).

python benchmarks/sharding.py [--processes 1,2,4] [--width W] [--side S] [--batch B] [--steps K] [--device cpu]

A U-Net of width/2 width/2 width channels trains on random images by AdamW with one average, without measurements and
states. Every line is a launch of its own by torchrun; one process trains without sharding. Columns: parameters, images
in a step, bytes of weights, moments and averages that the fullest process holds by the shapes of its tensors, largest
memory of any process during the steps (GPUs: that of torch's allocator; CPUs: the kernel's peak of the resident set,
less what the process had before the network was built), and median time of a step. Settings alternate --rounds times,
and the least memory and the median time of the rounds are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from header import GENERAL_UNET, header

from fromnoise import config as recipes
from fromnoise.data.convert import as_data
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.optim.parts import local_parts
from fromnoise.training.distributed import device_of_rank, processes
from fromnoise.training.loop import TrainingLoop
from fromnoise.utils.device import select_device

_MIB = 2**20


def resident(peak: bool) -> int:
    """Bytes of the resident set of this process, or its peak."""
    name = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Train in this process, as one of several; what the fullest and slowest needs."""
    compute = select_device(device_of_rank(args.device), "fp32" if args.device == "cpu" else "auto")
    cuda = compute.device.type == "cuda"
    before = 0 if cuda else resident(peak=False)
    values = {
        **{"network.width": args.width // 2, "network.multipliers": [1, 1, 2], "network.blocks": 2},
        **{"network.attention_resolutions": [], "network.dropout": 0, "data.flip": False},
        **{
            "train.optimizer": "adamw",
            "train.batch": args.batch,
            "train.steps": args.steps + 2,
            "train.evaluations": 1,
        },
        **{"train.held_out": 1, "ema.decays": [0.999], "ema.widths": [], "train.sharding": args.sharding},
    }
    recipe = recipes.load(GENERAL_UNET, values)
    images = torch.randint(0, 256, (4 * args.batch, 3, args.side, args.side), dtype=torch.uint8)
    data = as_data(images)
    model = build(recipe, DatasetInfo(data.shape, None, data.fingerprint))
    loop = TrainingLoop(model, data, compute, Accelerator(cpu=args.device == "cpu", device_placement=False))
    parameters, seconds, peak = loop.model.parameters, [], 0
    steps = loop.run()
    for number in range(args.steps + 1):
        start = time.perf_counter()
        next(steps)
        if cuda:
            torch.cuda.synchronize()
        if number:  # the first step allocates the moments
            seconds.append(time.perf_counter() - start)
        elif cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):  # the peak from here on
                Path("/proc/self/clear_refs").write_text("5")
    peak = torch.cuda.max_memory_allocated() if cuda else resident(peak=True) - before
    held = sum(t.nbytes for t in local_parts(loop.state()[0].values()))
    numbers = torch.tensor([held, peak, statistics.median(seconds)], dtype=torch.float64, device=compute.device)
    if dist.is_initialized():
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    held, peak, median = numbers.tolist()
    return {"parameters": parameters, "held_mb": held / _MIB, "peak_mb": peak / _MIB, "seconds": median}


def launch(count: int, sharding: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure with a number of processes, by torchrun if there are several."""
    words = [__file__, "--child", "--sharding", sharding]
    for name in ("width", "side", "batch", "steps", "device"):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    launcher = [sys.executable]
    if count > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(count), "--master_port", str(args.port)]
    environment = {"OMP_NUM_THREADS": "1"} | dict(os.environ)
    done = subprocess.run([*launcher, *words], env=environment, capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("{")), None)
    if line is None:
        raise SystemExit(done.stderr)
    return json.loads(line)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", help="cpu, or left out: a GPU for each process")
    parser.add_argument("--port", type=int, default=29671)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sharding", default="none", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        with processes(args.device):
            found = measure(args)
        if int(os.environ.get("RANK", "0")) == 0:
            print(json.dumps(found), flush=True)
        return
    counts = [int(n) for n in args.processes.split(",")]
    settings = [(n, sharding) for n in counts for sharding in ("none", "full") if n > 1 or sharding == "none"]
    rounds = [[launch(n, sharding, args) for n, sharding in settings] for _ in range(args.rounds)]
    rows = []
    for (n, sharding), measured in zip(settings, zip(*rounds, strict=True), strict=True):
        row = {"processes": n, "sharding": sharding} | measured[0]
        row["peak_mb"] = min(m["peak_mb"] for m in measured)
        row["seconds"] = statistics.median(m["seconds"] for m in measured)
        rows.append(row)
    print(header())
    print(f"{rows[0]['parameters']:,.0f} parameters, batch {args.batch} of {args.side}x{args.side}x3\n")
    print("| processes | train.sharding | held, MiB | peak, MiB | s a step |\n|---|---|---|---|---|")
    for row in rows:
        print("| {processes} | {sharding} | {held_mb:.1f} | {peak_mb:.0f} | {seconds:.2f} |".format(**row))
    if args.json is not None:
        args.json.write_text(json.dumps({"header": header().splitlines(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
