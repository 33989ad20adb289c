"""``fromnoise edit vary``."""

from __future__ import annotations

import argparse

from fromnoise.cli.edit import common

HELP = "draw pictures like a given one: noise to a depth and back"
EPILOG = """example:
  fromnoise edit vary runs/mine --image photo.png --depth 0.5 -n 16 --out like_it.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common.configure(parser)
    parser.add_argument(
        "--depth", metavar="T", type=float, default=0.5, help="t to go up to: near 0 all stays, at 1 all is new"
    )


def run(args: argparse.Namespace) -> int:
    """Vary."""
    from fromnoise.data import to_float
    from fromnoise.editing import load_picture, vary

    made = common.brush(args)
    pixels = load_picture(args.image, made.model.dataset_info.shape[0])
    common.check_size(args, made, (pixels.shape[-2], pixels.shape[-1]))
    return common.finish(args, made, vary(made, to_float(pixels), args.depth))
