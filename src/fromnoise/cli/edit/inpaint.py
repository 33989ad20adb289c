"""``fromnoise edit inpaint``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fromnoise.cli.edit import common

HELP = "paint where a mask is white; all other pixels stay what they are"
EPILOG = """example:
  fromnoise edit inpaint runs/mine --image photo.png --mask hole.png --out filled.png
  fromnoise edit inpaint runs/mine --image photo.png --mask hole.png -n 16 --method repaint --out ways.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common.configure(parser)
    common.solver_flags(parser)
    parser.add_argument("--mask", metavar="FILE", type=Path, required=True, help="a picture, white where to paint")


def run(args: argparse.Namespace) -> int:
    """Fill in."""
    from fromnoise.data import to_float
    from fromnoise.diffusion.inverse.operators import Mask
    from fromnoise.editing import load_mask, load_picture, restore

    made = common.brush(args)
    pixels = load_picture(args.image, made.model.dataset_info.shape[0])
    size = (pixels.shape[-2], pixels.shape[-1])
    operator = Mask(load_mask(args.mask, size))
    common.check_size(args, made, size)
    steps = restore(made, operator, operator.forward(to_float(pixels)), size, args.method, args.iterations)
    return common.finish(args, made, steps)
