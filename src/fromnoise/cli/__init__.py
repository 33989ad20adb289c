"""The command line: ``fromnoise VERB ...``, a thin file a verb.

Verbs import what they need when they run, so that help is instant.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from typing import NoReturn

from fromnoise import __version__
from fromnoise.cli import assign, bits, cluster, doctor, edit, evaluate, guide, recipes, sample, show, train
from fromnoise.cli.environment import set_environment
from fromnoise.utils.errors import UserError

VERBS = {
    "train": train,
    "sample": sample,
    "edit": edit,
    "guide": guide,
    "evaluate": evaluate,
    "bits": bits,
    "cluster": cluster,
    "assign": assign,
    "doctor": doctor,
    "show": show,
    "recipes": recipes,
}


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and examples as they were written."""

    def __init__(self, prog: str) -> None:
        """Wide enough for one option a line."""
        super().__init__(prog, max_help_position=28, width=min(110, max(80, _columns())))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False
        return action.help if nothing else super()._get_help_string(action)


def _columns() -> int:
    try:
        return os.get_terminal_size().columns
    except OSError:
        return 100


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and the mend, exit with 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    top = Parser(
        prog="fromnoise",
        description="Train, sample and judge denoising diffusion models: images in, a model and pictures out.",
        epilog="example:\n  fromnoise train digits\n  fromnoise sample runs/digits -n 100 --out digits.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fromnoise {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, module in VERBS.items():
        sub = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=module.EPILOG,
            formatter_class=Help,
        )
        module.configure(sub)
        sub.set_defaults(run=module.run)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit code: 0, 2 for a user's mistake, 128 + n after signal n."""
    set_environment()
    words, dotted = _dotted(list(sys.argv[1:] if argv is None else argv))
    top = parser()
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        near = difflib.get_close_matches(words[0], VERBS, 1, 0.4)
        top.error(
            f"there is no verb {words[0]!r}: "
            + (f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}")
        )
    args = top.parse_args(words)
    if dotted and args.verb not in ("train", "cluster"):
        top.error(f"{args.verb} takes no recipe keys such as --{next(iter(dotted))}")
    args.words, args.dotted = words, dotted
    try:
        return args.run(args)
    except UserError as e:
        print(f"fromnoise: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fromnoise: interrupted", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as e:
        if not _out_of_memory(e):
            raise
        print("fromnoise: out of memory: take a smaller --batch, -n or --data.size", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, a GPU or the CPU's allocator says so; torch has a type of its own for GPUs only."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(w in str(error).lower() for w in words)


def _dotted(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take ``--part.key value`` and ``--part.key=value`` out of the words: they are the recipe's, not the parser's."""
    words: list[str] = []
    dotted: dict[str, str] = {}
    rest = iter(argv)
    for word in rest:
        key, equals, value = word[2:].partition("=")
        if word.startswith("--") and "." in key:
            dotted[key] = value if equals else next(rest, "")
        else:
            words.append(word)
    return words, dotted
