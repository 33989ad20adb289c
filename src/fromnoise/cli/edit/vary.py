"""``fromnoise edit vary``."""

from __future__ import annotations

import argparse

from fromnoise.cli.edit import edit_flags

HELP = "sample variations of an image: add noise up to a depth and denoise (SDEdit)"
EPILOG = """example:
  fromnoise edit vary runs/mine --image photo.png --depth 0.5 -n 16 --out variations.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    edit_flags.configure(parser)
    parser.add_argument(
        "--depth", metavar="T", type=float, default=0.5, help="time t up to which noise is added, in (0, 1]"
    )


def run(args: argparse.Namespace) -> int:
    """Sample variations."""
    from fromnoise.data import to_float
    from fromnoise.editing import load_image, vary

    edit = edit_flags.open_edit(args)
    pixels = load_image(args.image, edit.model.dataset_info.shape[0])
    edit_flags.check_size(args, edit, (pixels.shape[-2], pixels.shape[-1]))
    return edit_flags.finish(args, vary(edit, to_float(pixels), args.depth))
