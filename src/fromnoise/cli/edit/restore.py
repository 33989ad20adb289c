"""``fromnoise edit restore``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fromnoise.cli.edit import common

if TYPE_CHECKING:
    from fromnoise.editing import Degradation

HELP = "give a picture its colour, its detail or its sharpness back"
EPILOG = """example:
  fromnoise edit restore runs/mine --image grey.png --colourise --out coloured.png
  fromnoise edit restore runs/mine --image small.png --enlarge 4 -n 4 --out large.png
  fromnoise edit restore runs/mine --image blurred.png --deblur 1.5 --out sharp.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common.configure(parser)
    common.solver_flags(parser)
    add = parser.add_argument
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--colourise", action="store_true", help="colour is lost: the picture is grey")
    kinds.add_argument("--enlarge", metavar="F", type=int, help="detail is lost: the picture is F times too small")
    kinds.add_argument("--deblur", metavar="PIXELS", type=float, help="sharpness is lost: deviation of a Gaussian blur")
    add("--degrade", action="store_true", help="the picture is whole: take from it first, to see what comes back")


def run(args: argparse.Namespace) -> int:
    """Restore."""
    from fromnoise.data import to_float, to_uint8
    from fromnoise.editing import load_picture, restore

    made = common.brush(args)
    channels = made.model.dataset_info.shape[0]
    lost = _lost(args, channels)
    given = to_float(load_picture(args.image, channels if args.degrade else lost.channels))
    height, width = given.shape[-2:]
    size = (height, width) if args.degrade else (height * lost.factor, width * lost.factor)
    common.check_size(args, made, size)
    operator = lost.operator(*size)
    y = to_float(to_uint8(operator.forward(given))) if args.degrade else given
    return common.finish(args, made, restore(made, operator, y, size, args.method, args.iterations))


def _lost(args: argparse.Namespace, channels: int) -> Degradation:
    from fromnoise.editing import colour, detail, sharpness

    if args.enlarge is not None:
        return detail(channels, args.enlarge)
    return sharpness(channels, args.deblur) if args.deblur is not None else colour(channels)
