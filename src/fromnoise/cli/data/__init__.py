"""``fromnoise data``: one file for each subcommand."""

from __future__ import annotations

import argparse

from fromnoise.cli.data import pack, verify

HELP = "pack data sets into shards, and check shards"
EPILOG = """examples:
  fromnoise data pack ~/pictures --out shards
  fromnoise data verify shards"""

TASKS = {"pack": pack, "verify": verify}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    tasks = parser.add_subparsers(dest="task_name", metavar="TASK", required=True, parser_class=type(parser))
    for name, module in TASKS.items():
        subparser = tasks.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=module.EPILOG,
            formatter_class=parser.formatter_class,
        )
        module.configure(subparser)
        subparser.set_defaults(task=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return args.task(args)
