"""Verbs with subcommands, each of which is a module like a verb's."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import ModuleType

from fromnoise.cli import component_flags


def add_subcommands(parser: argparse.ArgumentParser, modules: Mapping[str, ModuleType], metavar: str) -> None:
    """Declare the subcommands of a verb; ``args.subcommand(args)`` runs the chosen one.

    Args:
        parser: of the verb.
        modules: by name; each has ``HELP``, ``EPILOG``, ``configure`` and ``run``.
        metavar: stands for the name in the help.
    """
    found = parser.add_subparsers(dest="subcommand_name", metavar=metavar, required=True, parser_class=type(parser))
    for name, module in modules.items():
        subparser = found.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=module.EPILOG,
            formatter_class=parser.formatter_class,
        )
        module.configure(subparser)
        component_flags.add_option_flags(subparser)
        subparser.set_defaults(subcommand=module.run)
