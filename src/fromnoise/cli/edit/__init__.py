"""``fromnoise edit``: one file for each subcommand."""

from __future__ import annotations

import argparse

from fromnoise.cli import component_flags
from fromnoise.cli.edit import inpaint, interpolate, outpaint, restore, vary

HELP = "edit an image with a trained model: inpaint, outpaint, restore, vary, interpolate"
EPILOG = """examples:
  fromnoise edit inpaint runs/mine --image photo.png --mask mask.png -n 4 --out inpainted.png
  fromnoise edit vary runs/mine --image photo.png --depth 0.5 --out variation.png"""

EDITS = {"inpaint": inpaint, "outpaint": outpaint, "restore": restore, "vary": vary, "interpolate": interpolate}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    edits = parser.add_subparsers(dest="edit_name", metavar="EDIT", required=True, parser_class=type(parser))
    for name, module in EDITS.items():
        subparser = edits.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=module.EPILOG,
            formatter_class=parser.formatter_class,
        )
        module.configure(subparser)
        component_flags.add_option_flags(subparser)
        subparser.set_defaults(edit=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return args.edit(args)
