"""``fromnoise doctor``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "check a run or a data set for common problems, and suggest remedies"
_DATA_CHECKS = "value range, blank and unreadable images, number of images, sizes, rare classes, duplicates, leaks"
_RUN_CHECKS = "dropped steps, lagging EMA, a rising, flat or high loss"
_SAMPLE_CHECKS = "near copies, near duplicates, class balance, brightness, contrast, colour, clipping"
_CHECKS = {"data": _DATA_CHECKS, "run": _RUN_CHECKS, "samples": _SAMPLE_CHECKS}
EPILOG = f"""checks of a data set: {_DATA_CHECKS}.
checks of a run, besides those of its data: {_RUN_CHECKS};
and of some samples: {_SAMPLE_CHECKS}.

examples:
  fromnoise doctor ~/pictures
  fromnoise doctor runs/digits"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("target", metavar="RUN_OR_SPEC", help="a run directory, a .safetensors file, or data as train --data takes it")
    add("-n", dest="count", metavar="N", type=int, default=300, help="number of samples of a run; 0 for none")
    add("--size", metavar="S", type=int, help="side in pixels to which images are resized")
    add("--json", metavar="FILE", type=Path, help="also write the findings as JSON")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")


def run(args: argparse.Namespace) -> int:
    """Check, and print the findings."""
    from dataclasses import asdict

    from fromnoise.cli.common import check_minimum, write_json
    from fromnoise.evaluation.doctor import DATA, examine_data, examine_run
    from fromnoise.evaluation.resolve import check_exists, is_run
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    check_minimum(("-n", args.count, 0), ("--size", args.size, 1))
    if args.json is not None:
        check_file(args.json, ".json")

    check_exists(args.target)

    def log(line: str) -> None:
        print(line, file=sys.stderr)

    if is_run(args.target):
        findings, made = examine_run(args.target, select_device(args.device, args.precision), args.count, log)
    else:
        findings, made = examine_data(args.target, args.size, log), (DATA,)
    for finding in findings:
        print(f"{finding.problem}\n    {finding.remedy}")
    if not findings:
        print(f"No problems found by these checks: {'; '.join(_CHECKS[name] for name in made)}.")
    if args.json is not None:
        write_json(args.json, {"target": args.target, "findings": [asdict(f) for f in findings]})
    return 0
