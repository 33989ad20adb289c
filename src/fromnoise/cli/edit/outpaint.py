"""``fromnoise edit outpaint``."""

from __future__ import annotations

import argparse

from fromnoise.cli.edit import edit_flags

HELP = "extend an image beyond its edges"
EPILOG = """example:
  fromnoise edit outpaint runs/mine --image photo.png --out larger.png
  fromnoise edit outpaint runs/mine --image photo.png --size 64x96 --at 0,16 --any-size --out larger.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    edit_flags.configure(parser)
    edit_flags.solver_flags(parser)
    parser.add_argument(
        "--size", metavar="HxW", help="size of the extended image; default: that of the training images"
    )
    parser.add_argument(
        "--at", metavar="ROW,COLUMN", help="position of the image's upper left corner; default: centered"
    )


def run(args: argparse.Namespace) -> int:
    """Outpaint."""
    from fromnoise.cli.parsing import parse_pair, parse_size
    from fromnoise.data import to_float
    from fromnoise.diffusion.inverse import Mask
    from fromnoise.editing import load_image, place_on_canvas, restore

    solver = edit_flags.inverse_solver(args)
    edit = edit_flags.open_edit(args)
    channels, height, width = edit.model.dataset_info.shape
    pixels = load_image(args.image, channels)
    canvas_size = parse_size("--size", args.size) if args.size else (height, width)
    canvas, known = place_on_canvas(pixels, canvas_size, parse_pair("--at", args.at) if args.at else None)
    edit_flags.check_size(args, edit, canvas_size)
    operator = Mask(known)
    return edit_flags.finish(args, restore(edit, operator, operator.forward(to_float(canvas)), canvas_size, solver))
