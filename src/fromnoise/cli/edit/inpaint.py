"""``fromnoise edit inpaint``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fromnoise.cli.edit import edit_flags

HELP = "paint where a mask is white and keep all other pixels"
EPILOG = """example:
  fromnoise edit inpaint runs/mine --image photo.png --mask mask.png --out inpainted.png
  fromnoise edit inpaint runs/mine --image photo.png --mask mask.png -n 16 --method repaint --out samples.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    edit_flags.configure(parser)
    edit_flags.solver_flags(parser)
    parser.add_argument("--mask", metavar="FILE", type=Path, required=True, help="an image, white where to paint")


def run(args: argparse.Namespace) -> int:
    """Inpaint."""
    from fromnoise.data import to_float
    from fromnoise.diffusion.inverse import Mask
    from fromnoise.editing import load_image, load_mask, restore

    solver = edit_flags.inverse_solver(args)
    edit = edit_flags.open_edit(args)
    pixels = load_image(args.image, edit.model.dataset_info.shape[0])
    size = (pixels.shape[-2], pixels.shape[-1])
    operator = Mask(load_mask(args.mask, size))
    edit_flags.check_size(args, edit, size)
    return edit_flags.finish(args, restore(edit, operator, operator.forward(to_float(pixels)), size, solver))
