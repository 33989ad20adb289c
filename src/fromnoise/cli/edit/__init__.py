"""``fromnoise edit``: one file for each subcommand."""

from __future__ import annotations

import argparse

from fromnoise.cli.edit import inpaint, interpolate, outpaint, restore, vary
from fromnoise.cli.subcommands import add_subcommands

HELP = "edit an image with a trained model: inpaint, outpaint, restore, vary, interpolate"
EPILOG = """examples:
  fromnoise edit inpaint runs/mine --image photo.png --mask mask.png -n 4 --out inpainted.png
  fromnoise edit vary runs/mine --image photo.png --depth 0.5 --out variation.png"""

EDITS = {"inpaint": inpaint, "outpaint": outpaint, "restore": restore, "vary": vary, "interpolate": interpolate}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    add_subcommands(parser, EDITS, "EDIT")


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return args.subcommand(args)
