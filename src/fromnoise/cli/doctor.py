"""``fromnoise doctor``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "say what is wrong with a run or with data, and what to do about it"
EPILOG = """of data: value range, blank and unreadable images, too few, odd sizes, poor classes, duplicates, leaks.
of a run, besides its data: dropped steps, averages that lag, a loss that rises, stands or is too high, and of a few
samples drawn for it: copies, twins, missing kinds, brightness, contrast, colour, clipping.

examples:
  fromnoise doctor ~/pictures
  fromnoise doctor runs/digits"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("patient", metavar="RUN_OR_SPEC", help="a run folder, a .safetensors file, or data as train --data takes them")
    add("-n", dest="count", metavar="N", type=int, default=300, help="samples to draw from a run; 0 for none")
    add("--size", metavar="S", type=int, help="side in pixels at which data are looked at")
    add("--json", metavar="FILE", type=Path, help="the findings as JSON, too")
    add("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")
    add("--precision", default="auto", help="auto, bf16 or fp32")


def run(args: argparse.Namespace) -> int:
    """Examine."""
    from dataclasses import asdict

    from fromnoise.cli.common import check_minimum, write_json
    from fromnoise.evaluation import doctor
    from fromnoise.evaluation.resolve import is_run
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    check_minimum(("-n", args.count, 0), ("--size", args.size, 1))
    if args.json is not None:
        check_file(args.json, ".json")

    def log(line: str) -> None:
        print(line, file=sys.stderr)

    if is_run(args.patient):
        found = doctor.of_run(args.patient, select_device(args.device, args.precision), args.count, log)
    else:
        found = doctor.of_spec(args.patient, args.size, log)
    for finding in found:
        print(f"{finding.what}\n    {finding.mend}")
    if not found:
        print("nothing is wrong that I know to look for")
    if args.json is not None:
        write_json(args.json, {"patient": args.patient, "findings": [asdict(f) for f in found]})
    return 0
