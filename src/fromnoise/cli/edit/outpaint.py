"""``fromnoise edit outpaint``."""

from __future__ import annotations

import argparse

from fromnoise.cli.edit import common

HELP = "continue a picture beyond its edges"
EPILOG = """example:
  fromnoise edit outpaint runs/mine --image photo.png --out larger.png
  fromnoise edit outpaint runs/mine --image photo.png --size 64x96 --at 0,16 --any-size --out larger.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common.configure(parser)
    common.solver_flags(parser)
    parser.add_argument("--size", metavar="HxW", help="of the larger picture; left out: what the model learned from")
    parser.add_argument("--at", metavar="ROW,COLUMN", help="where the picture lies in it; left out: in the middle")


def run(args: argparse.Namespace) -> int:
    """Continue."""
    from fromnoise.cli.parsing import parse_pair, parse_size
    from fromnoise.data import to_float
    from fromnoise.diffusion.inverse.operators import Mask
    from fromnoise.editing import canvas, load_picture, restore

    made = common.brush(args)
    channels, height, width = made.model.dataset_info.shape
    pixels = load_picture(args.image, channels)
    whole = parse_size("--size", args.size) if args.size else (height, width)
    sheet, kept = canvas(pixels, whole, parse_pair("--at", args.at, ",") if args.at else None)
    common.check_size(args, made, whole)
    operator = Mask(kept)
    steps = restore(made, operator, operator.forward(to_float(sheet)), whole, args.method, args.iterations)
    return common.finish(args, made, steps)
