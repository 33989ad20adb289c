"""The command line: ``fromnoise VERB ...``, a thin file a verb.

Verbs import what they need when they run, so that help is instant.
"""

from __future__ import annotations

import argparse
import os
import sys

from fromnoise import __version__
from fromnoise.cli import (
    assign,
    bits,
    cluster,
    component_flags,
    data,
    distill,
    doctor,
    edit,
    ema,
    evaluate,
    export,
    guide,
    import_model,
    push,
    recipes,
    sample,
    show,
    suggestions,
    train,
    tune,
    web,
)
from fromnoise.cli.arguments import Help, Parser
from fromnoise.utils.environment import set_environment
from fromnoise.utils.errors import UserError, one_line

VERBS = {
    "train": train,
    "distill": distill,
    "sample": sample,
    "edit": edit,
    "guide": guide,
    "tune": tune,
    "ema": ema,
    "evaluate": evaluate,
    "bits": bits,
    "cluster": cluster,
    "assign": assign,
    "doctor": doctor,
    "show": show,
    "data": data,
    "import": import_model,
    "export": export,
    "push": push,
    "recipes": recipes,
    "web": web,
}


def parser(only: str | None = None) -> tuple[Parser, dict[str, Parser]]:
    """The parser of all verbs, and those of the verbs.

    Args:
        only: the verb whose options are declared, which may import much; None declares those of all.
    """
    top = Parser(
        prog="fromnoise",
        description="Train, sample and evaluate denoising diffusion models: images in, a model and samples out.",
        epilog="example:\n  fromnoise train digits\n  fromnoise sample runs/digits -n 100 --out digits.png\n\n"
        "--plugin MODULE before or after a verb imports a module of your own, which registers components",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fromnoise {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    parsers: dict[str, Parser] = {}
    for name, module in VERBS.items():
        parsers[name] = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=module.EPILOG,
            formatter_class=Help,
        )
        if only is None or name == only:
            module.configure(parsers[name])
            component_flags.add_option_flags(parsers[name])
        parsers[name].set_defaults(run=module.run)
    return top, parsers


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit code: 0, 2 for a user's mistake, 128 + n after signal n."""
    set_environment()
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except UserError as e:
        print(one_line(f"fromnoise: {e}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fromnoise: interrupted", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as e:
        if not _out_of_memory(e):
            raise
        print("fromnoise: out of memory: use a smaller --batch, -n or --data.size", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as e:  # a disk that is full, a folder without permission, too many open files
        name = f"{e.filename}: " if e.filename is not None else ""
        print(one_line(f"fromnoise: {name}{e.strerror or e}"), file=sys.stderr)
        return 2


def _run(argv: list[str]) -> int:
    words, dotted = _dotted(_import_plugins(argv))
    verb = next((w for w in words if not w.startswith("-")), None)
    top, parsers = parser(verb or "")
    if verb is not None and verb not in VERBS:
        top.error(suggestions.unknown_verb(verb, list(VERBS)))
    recipe_keys = verb in RECIPE_VERBS
    top.check_flags(words, recipe_keys)
    if dotted and verb is not None and not recipe_keys:
        parsers[verb].error(suggestions.unknown_key(next(iter(dotted)), verb, parsers[verb].flags()))
    args, unknown = top.parse_known_args(words)
    if unknown:
        used = parsers[args.verb]
        used = next((inner for name, inner in used.subparsers().items() if name in words), used)
        used.error(suggestions.unexpected_argument(unknown[0], used.positional(), used.flags(), recipe_keys))
    args.words, args.dotted = words, dotted
    return args.run(args)


RECIPE_VERBS = ("train", "distill", "cluster")
"""Verbs that take recipe keys as ``--section.key value``."""


def _import_plugins(argv: list[str]) -> list[str]:
    """Import the modules of ``--plugin MODULE``, which register components; the other words.

    Raises:
        UserError: a module cannot be imported.
    """
    import importlib

    words, rest = [], iter(argv)
    for word in rest:
        flag, equals, module = word.partition("=")
        if flag != "--plugin":
            words.append(word)
            continue
        module = module if equals else next(rest, "")
        if not module or module.endswith(".py"):
            raise UserError(f"--plugin {module!r} must be the name of a module, without .py".replace(" ''", ""))
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(module)
        except Exception as e:  # the user's own code may fail in any way
            raise UserError(f"cannot import --plugin {module!r}: {type(e).__name__}: {e}") from None
    return words


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, a GPU or the CPU's allocator says so; torch has a type of its own for GPUs only."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(w in str(error).lower() for w in words)


def _dotted(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take ``--part.key value`` and ``--part.key=value`` out of the words: they are the recipe's, not the parser's."""
    words: list[str] = []
    dotted: dict[str, str] = {}
    at = 0
    while at < len(argv):
        key, equals, value = argv[at][2:].partition("=")
        if argv[at].startswith("--") and "." in key:
            following = argv[at + 1] if at + 1 < len(argv) else "--"
            if equals:
                dotted[key] = value
            elif following.startswith("--"):  # without a value: a switch, see cli/train.py
                dotted[key] = ""
            else:
                dotted[key] = following
                at += 1
        else:
            words.append(argv[at])
        at += 1
    return words, dotted
