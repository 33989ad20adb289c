"""``fromnoise web``."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "open the web interface: train, watch, sample, edit and compare in a browser on this machine"
EPILOG = """Only this machine can connect, unless --host names another address; that needs the token that is printed.
Trainings are processes of their own: they go on when the web interface ends.

examples:
  fromnoise web
  fromnoise web ~/runs --data ~/pictures
  fromnoise web runs/digits --demo
  fromnoise web hub:owner/digits --demo
  fromnoise web runs/digits --demo --host 0.0.0.0 --public owner-digits.hf.space"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    folder = "folder of runs; with --demo one run, which may be hub:owner/name"
    add("runs", metavar="FOLDER", nargs="?", type=Path, default=Path("runs"), help=folder)
    add(
        "--data",
        metavar="FOLDER",
        type=Path,
        action="append",
        default=[],
        help="a folder whose images, or the data sets in it, may be trained on; may be repeated",
    )
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on; 0.0.0.0 for all networks")
    add("--port", default=7860, type=int, metavar="P", help="port to listen on; 0 for a free one")
    add("--token", metavar="TEXT", help="ask for this token; another address than this machine's always has one")
    add("--demo", action="store_true", help="show one run, FOLDER, for sampling only")
    add("--public", metavar="NAME", help="with --demo: show it to everybody under this name, without a token")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from fromnoise.utils.errors import UserError

    try:
        import jinja2  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"fromnoise web needs {error.name}: pip install 'fromnoise[web]'") from None
    from fromnoise.web.serve import serve

    return serve(args.runs, args.data, args.host, args.port, args.token, args.demo, args.public)
