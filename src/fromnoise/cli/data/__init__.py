"""``fromnoise data``: one file for each subcommand."""

from __future__ import annotations

import argparse

from fromnoise.cli.data import pack, verify
from fromnoise.cli.subcommands import add_subcommands

HELP = "pack data sets into shards, and check shards"
EPILOG = """examples:
  fromnoise data pack ~/pictures --out shards
  fromnoise data verify shards"""

TASKS = {"pack": pack, "verify": verify}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    add_subcommands(parser, TASKS, "TASK")


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return args.subcommand(args)
