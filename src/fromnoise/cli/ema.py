"""``fromnoise ema``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "compute the average of the weights of any width after training, or find the best width"
EPILOG = """Needs the snapshots of a run that was trained with ema.snapshots (recipe fast has them). The width is the
deviation of the average's profile relative to the length of the run. The result is a model of its own, which every
verb takes; with --replace it takes the place of model.safetensors, until training goes on.

examples:
  fromnoise ema runs/mine --width 0.05
  fromnoise sample runs/mine/ema-0.05.safetensors -n 100 --out samples.png
  fromnoise ema runs/mine --sweep"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory")
    add("--width", metavar="W", type=float, help="relative width of the average, below 0.28")
    add("--sweep", action="store_true", help="compare several widths by kernel distance, and write the nearest")
    add("--widths", metavar="W,W", help="widths of the sweep (default: 0.03 to 0.2)")
    add("-n", dest="count", metavar="N", type=int, default=1000, help="samples for each width of the sweep")
    add("--features", metavar="NAME", help="as of evaluate (default: classifier with labels, else self-supervised)")
    add("--data", metavar="SPEC", help="held-out images of the sweep (default: the data of the run)")
    add("--out", metavar="FILE", type=Path, help="where to write the model (default: RUN/ema-WIDTH.safetensors)")
    add("--replace", action="store_true", help="write it to RUN/model.safetensors")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")


def run(args: argparse.Namespace) -> int:
    """Compute, or sweep, and write the model."""
    from fromnoise.cli.common import check_minimum
    from fromnoise.utils.errors import UserError
    from fromnoise.utils.files import check_file

    check_minimum(("-n", args.count, 2))
    if args.sweep == (args.width is not None):
        raise UserError("give --width W, such as --width 0.05, or --sweep")
    if args.replace and args.out is not None:
        raise UserError("give --out FILE or --replace, not both")
    widths = _widths(str(args.width) if args.width is not None else args.widths)
    if args.out is not None:
        check_file(args.out, ".safetensors")
    width = args.width if args.width is not None else _sweep(args, widths)
    from fromnoise.checkpoint import save_model
    from fromnoise.training.ema_sweep import averaged_model
    from fromnoise.utils.locks import locked_folder

    loaded, missed = averaged_model(args.model, width)
    folder = Path(args.model)
    out = args.out or folder / ("model.safetensors" if args.replace else f"ema-{width:g}.safetensors")
    with locked_folder(folder):
        save_model(out, loaded.model, loaded.model.module.state_dict(), loaded.progress)
    note = "" if missed < 0.05 else f"; its profile differs by {missed:.0%}, more snapshots (ema.snapshots) are nearer"
    print(f"average of width {width:g} at step {loaded.progress['step']:,}{note}\n{out}")
    return 0


def _widths(text: str | None) -> tuple[float, ...]:
    """Widths separated by commas; the default ones for None.

    Raises:
        UserError: one is out of range.
    """
    from fromnoise.training.ema_sweep import WIDTHS
    from fromnoise.utils.errors import UserError

    try:
        widths = tuple(float(word) for word in text.split(",")) if text is not None else WIDTHS
    except ValueError:
        widths = (0.0,)
    if not all(0 < width < 0.28 for width in widths):
        raise UserError(f"width {text} must lie between 0 and 0.28, such as 0.05 (several with commas)")
    return widths


def _sweep(args: argparse.Namespace, widths: tuple[float, ...]) -> float:
    """Print and draw the distances by width, and return the nearest."""
    from fromnoise.cli.common import write_json
    from fromnoise.reporting.plots import ema_plot
    from fromnoise.training.ema_sweep import sweep
    from fromnoise.utils.device import select_device

    def log(line: str) -> None:
        print(line, file=sys.stderr)

    compute, rows = select_device(args.device, args.precision), []
    options = {"count": args.count, "features": args.features, "data": args.data, "log": log}
    print("| width | kernel distance x 1000 |\n|---|---|")
    for row in sweep(args.model, compute, widths, **options):
        rows.append(row)
        name = "model.safetensors" if row.width is None else f"{row.width:g}"
        print(f"| {name} | {1000 * row.distance.value:.2f} +- {1000 * row.distance.error:.2f} |", flush=True)
    found = [(row.width, row.distance) for row in rows if row.width is not None]
    folder = Path(args.model)
    listed = [{"width": row.width, "kernel": row.distance.json(), "profile_error": row.missed} for row in rows]
    write_json(folder / "ema.json", {"samples": args.count, "rows": listed})
    ema_plot([(w, d.value, d.error) for w, d in found], rows[0].distance.value, folder / "ema.png")
    print(f"{folder / 'ema.png'}\n{folder / 'ema.json'}")
    return min(found, key=lambda pair: pair[1].value)[0]
