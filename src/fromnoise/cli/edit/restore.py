"""``fromnoise edit restore``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fromnoise.cli.edit import edit_flags

if TYPE_CHECKING:
    from fromnoise.editing import Degradation

HELP = "colorize, upscale or deblur an image"
EPILOG = """example:
  fromnoise edit restore runs/mine --image gray.png --colorize --out color.png
  fromnoise edit restore runs/mine --image small.png --upscale 4 -n 4 --out large.png
  fromnoise edit restore runs/mine --image blurred.png --deblur 1.5 --out sharp.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    edit_flags.configure(parser)
    edit_flags.solver_flags(parser)
    add = parser.add_argument
    degradations = parser.add_mutually_exclusive_group(required=True)
    degradations.add_argument("--colorize", action="store_true", help="add color to a grayscale image")
    degradations.add_argument("--upscale", metavar="F", type=int, help="enlarge the image by a factor")
    degradations.add_argument(
        "--deblur", metavar="PIXELS", type=float, help="undo a Gaussian blur of this standard deviation"
    )
    add("--degrade", action="store_true", help="degrade the image first, to compare the result with the original")


def run(args: argparse.Namespace) -> int:
    """Restore."""
    from fromnoise.data import to_float, to_uint8
    from fromnoise.editing import load_image, restore

    solver = edit_flags.inverse_solver(args)
    edit = edit_flags.open_edit(args)
    channels = edit.model.dataset_info.shape[0]
    degradation = _degradation(args, channels)
    image = to_float(load_image(args.image, channels if args.degrade else degradation.channels))
    height, width = image.shape[-2:]
    size = (height, width) if args.degrade else (height * degradation.factor, width * degradation.factor)
    edit_flags.check_size(args, edit, size)
    operator = degradation.operator(*size)
    y = to_float(to_uint8(operator.forward(image))) if args.degrade else image
    return edit_flags.finish(args, restore(edit, operator, y, size, solver))


def _degradation(args: argparse.Namespace, channels: int) -> Degradation:
    from fromnoise.editing import colorization, deblurring, super_resolution

    if args.upscale is not None:
        return super_resolution(channels, args.upscale)
    return deblurring(channels, args.deblur) if args.deblur is not None else colorization(channels)
