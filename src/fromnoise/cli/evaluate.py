"""``fromnoise evaluate``."""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import Tensor

    from fromnoise.data import Data
    from fromnoise.evaluation.features.extractors import Features
    from fromnoise.evaluation.sources import ImageSource
    from fromnoise.utils.device import ComputeConfig

HELP = "judge models or samples against real images: distances, copies, coverage, cost"
EPILOG = """each SUBJECT is a run folder, a .safetensors file, or samples of any program: a folder, .zip or .npz.
every number comes with its error, its n, and the floor: what held-out real images score.

examples:
  fromnoise evaluate runs/digits
  fromnoise evaluate runs/a runs/b others.npz --against mnist -n 5000 --out comparison
  fromnoise evaluate runs/a --sweep steps=5,10,20,50 --sweep rule=ddim,unipc -n 1000
  torchrun --nproc_per_node 8 -m fromnoise evaluate runs/a --against cifar10 -n 50000 --features inception"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("subjects", metavar="SUBJECT", nargs="+", help="a run folder, a .safetensors file, or samples")
    add("--against", metavar="SPEC", help="real images; those that the run learned from, if left out")
    add("-n", dest="count", metavar="N", type=int, default=2000, help="how many samples of each")
    add(
        "--features",
        metavar="NAME",
        help="classifier (with labels), self-supervised, pixels, inception, dinov2",
    )
    add(
        "--bits",
        metavar="N",
        type=int,
        default=64,
        help="images held out, and learned, whose bits are told; 0: none",
    )
    add("--out", metavar="DIR", type=Path, help="where the report goes; evaluation-1 (2, ...) in the first run folder")
    add("--json", metavar="FILE", type=Path, help="the numbers as JSON, here too")
    add("--sweep", metavar="KEY=A,B", action="append", default=[], help="each run with each value of rule, steps, ...")
    add("--size", metavar="S", type=int, help="side in pixels at which samples of others are compared")
    add("--label", metavar="L", help="a class by name or number, several with commas; all if left out")
    add("--seed", metavar="S", type=int, default=0, help="of the samples")
    add("--batch", metavar="B", type=int, default=64, help="pictures at a time")
    add("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")
    add("--precision", default="auto", help="auto, bf16 or fp32")


def run(args: argparse.Namespace) -> int:
    """Judge."""
    from fromnoise.cli.common import check_minimum
    from fromnoise.utils.errors import UserError

    check_minimum(
        ("-n", args.count, 10), ("--bits", args.bits or None, 2), ("--batch", args.batch, 1), ("--size", args.size, 1)
    )
    from accelerate import Accelerator
    from tqdm import tqdm

    from fromnoise.evaluation import resolve
    from fromnoise.evaluation.sources import Processes
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file, check_folder

    out = args.out or _free(args.subjects)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: choose another --out")
    check_folder(out)
    if args.json is not None:
        check_file(args.json, ".json")
    sweep = resolve.parse_sweep(args.sweep)
    accelerator = Accelerator(cpu=args.device == "cpu", mixed_precision="no", device_placement=False)
    main, world = accelerator.is_main_process, accelerator.num_processes
    compute = select_device(
        str(accelerator.device) if args.device is None or world > 1 else args.device, args.precision
    )
    processes = Processes(accelerator.process_index, world, lambda batch: cast("Tensor", accelerator.gather(batch)))

    def log(line: str) -> None:
        if main:
            tqdm.write(line, file=sys.stderr)

    data = resolve.real_images(args.subjects, args.against, args.size, log)
    config = resolve.Drawing(args.count, args.seed, args.label, args.batch, compute, processes)
    subjects = resolve.subjects(args.subjects, sweep, data, config, args.size is not None)
    if not main:  # the others only help to draw
        for subject in subjects:
            for _ in subject.batches():
                pass
        return 0
    return _judge(args, data, subjects, compute, out, log)


def _judge(
    args: argparse.Namespace,
    data: Data,
    subjects: Sequence[ImageSource],
    compute: ComputeConfig,
    out: Path,
    log: Callable[[str], None],
) -> int:
    """Measure, write, print."""
    from tqdm import tqdm

    from fromnoise.cli.common import write_json
    from fromnoise.evaluation import memorization, page
    from fromnoise.evaluation.cost import images, seconds
    from fromnoise.evaluation.features.select import choose
    from fromnoise.evaluation.measurement import measure
    from fromnoise.evaluation.sources import RealImages
    from fromnoise.reporting import documents

    with tqdm(desc="training the features, once for these images", unit="step", disable=None) as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update()

        space = choose(args.features, data, compute=compute, log=log, on_step=step)
    reference = RealImages("training images", data.train)
    coded = memorization.models(subjects, data, log) if args.bits else {}
    drawing, measuring = sum(s.seconds() for s in subjects), seconds(subjects, reference, data.held_out, space)
    measuring += memorization.seconds(coded, data, compute, args.bits)
    log(f"this will take about {page.time(drawing)} of drawing and {page.time(measuring)} of measuring")
    interval = 0.2 if sys.stderr.isatty() else 20.0
    total = images(subjects, reference, data.held_out) + memorization.images(coded, data, args.bits)
    with tqdm(total=total, unit="image", mininterval=interval) as bar:

        def on_step(name: str, more: int) -> None:
            bar.set_description(name, refresh=False)
            bar.update(more)

        found = measure(subjects, reference, data.held_out, space, on_step)
        bits = memorization.all_lengths(coded, data, compute, args.bits, on_step)
    told = page.verdicts(found, bits)
    command = shlex.join(["fromnoise", *args.words])
    around = page.Environment(command, args.against or "the images it learned from", _about(space, compute))
    title = f"fromnoise evaluate: {', '.join(args.subjects)}"
    files = documents.write(out, title, page.blocks(found, told, reference, around))
    for path in (out / "page.json", *([args.json] if args.json else [])):
        write_json(path, page.as_json(found, told, around))
    print(page.distances(told).plain())
    for verdict in told:
        for finding in verdict.findings:
            print(f"{verdict.name}: {finding}")
    print(files[0])
    return 0


def _about(space: Features, compute: ComputeConfig) -> tuple[str, ...]:
    from datetime import date

    import torch

    from fromnoise import __version__

    return (
        f"features: {space.about}",
        f"{date.today()}, fromnoise {__version__}, torch {torch.__version__}, {compute.describe()}",
    )


def _free(names: Sequence[str]) -> Path:
    """A folder that is not there yet, in the first run folder if there is one."""
    first = Path(names[0])
    base = first if first.is_dir() and (first / "model.safetensors").exists() else Path()
    return next(p for i in itertools.count(1) if not (p := base / f"evaluation-{i}").exists())
