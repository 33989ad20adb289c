"""``fromnoise export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fromnoise.cli import component_flags

HELP = "export a model for other programs"
EPILOG = """what a format cannot express exactly is refused with the reason.

example:
  fromnoise export runs/digits --to diffusers --out digits-diffusers"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    import fromnoise.interop  # noqa: F401  registers the exporters

    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory, a .safetensors file or hub:owner/name")
    add("--out", metavar="PATH", type=Path, required=True, help="new folder or file")
    component_flags.add_flag(parser, "exporter", "--to", "format")
    parser.epilog = f"{component_flags.add_list_of_components('exporter')}\n\n{EPILOG}"


def run(args: argparse.Namespace) -> int:
    """Export."""
    from fromnoise.checkpoint import load_trainable
    from fromnoise.interop.exporting import build_exporter
    from fromnoise.registry import names
    from fromnoise.utils.errors import UserError

    if args.to is None:
        raise UserError(f"name the format: --to {' or '.join(names('exporter'))}")
    exporter = build_exporter(args.to, component_flags.given_options(args, "exporter"))
    exporter.check_out(args.out)
    for note in exporter.write_any(load_trainable(args.model).model, args.out):
        print(note)
    print(args.out)
    return 0
