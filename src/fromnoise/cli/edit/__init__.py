"""``fromnoise edit``: a thin file a thing."""

from __future__ import annotations

import argparse

from fromnoise.cli.edit import inpaint, interpolate, outpaint, restore, vary

HELP = "use a trained model on a picture: fill in, continue, vary, restore, interpolate"
EPILOG = """examples:
  fromnoise edit inpaint runs/mine --image photo.png --mask hole.png -n 4 --out filled.png
  fromnoise edit vary runs/mine --image photo.png --depth 0.5 --out like_it.png"""

THINGS = {"inpaint": inpaint, "outpaint": outpaint, "restore": restore, "vary": vary, "interpolate": interpolate}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the things."""
    things = parser.add_subparsers(dest="thing", metavar="THING", required=True, parser_class=type(parser))
    for name, module in THINGS.items():
        thing = things.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=module.EPILOG,
            formatter_class=parser.formatter_class,
        )
        module.configure(thing)
        thing.set_defaults(edit=module.run)


def run(args: argparse.Namespace) -> int:
    """Edit."""
    return args.edit(args)
