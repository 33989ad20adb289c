"""The argument parser: wide help, and mistakes in one line that says what to do."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from fromnoise.cli import suggestions
from fromnoise.utils.errors import one_line


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
    """Reports a mistake in one line; flags are written in full, whole numbers have 64 bits."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """As of ``argparse.ArgumentParser``, without abbreviations of flags."""
        super().__init__(*args, allow_abbrev=False, **options)
        self.register("type", int, _parse_int)

    def error(self, message: str) -> NoReturn:
        """Print the mistake and the remedy, exit with 2."""
        self.exit(2, one_line(f"{self.prog}: {_reworded(message, self)}") + f" (see {self.prog} --help)\n")

    def flags(self) -> list[str]:
        """Every flag that the parser declares."""
        return list(self._option_string_actions)

    def positional(self) -> list[str]:
        """The names of the positional arguments."""
        return [str(a.metavar or a.dest) for a in self._actions if not a.option_strings]

    def subparsers(self) -> dict[str, Parser]:
        """The parsers of the subcommands by name."""
        return next((dict(a.choices) for a in self._actions if isinstance(a, argparse._SubParsersAction)), {})

    def missing(self, names: Sequence[str]) -> str:
        """What required arguments are, for the message that they are missing."""
        for action in self._actions:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            if name != names[0]:
                continue
            if isinstance(action, argparse._SubParsersAction):
                return f"{name} is missing: choose from {', '.join(action.choices)}"
            value = f" {action.metavar}" if action.option_strings and action.metavar else ""
            return f"{name}{value} is missing: {action.help}"
        return f"{names[0]} is missing"

    def check_flags(self, words: Sequence[str], recipe_keys: bool) -> None:
        """Exit with a suggestion if a word is an unknown flag, or not a known subcommand.

        Args:
            words: of the command line, without this parser's name.
            recipe_keys: whether the verb takes recipe keys.
        """
        subparsers = self.subparsers()
        for at, word in enumerate(words):
            if word == "--":
                return
            if word.startswith("-") and len(word) > 1 and not re.match(r"-\.?\d", word):
                if not self._knows(word):
                    self.error(suggestions.unknown_flag(word, self.flags(), recipe_keys, self.prog))
            elif subparsers and word in subparsers:
                return subparsers[word].check_flags(words[at + 1 :], recipe_keys)
            elif subparsers:
                self.error(suggestions.unknown_subcommand(word, list(subparsers)))

    def _knows(self, word: str) -> bool:
        flag = word.split("=")[0]
        return flag in self._option_string_actions or (word[1] != "-" and word[:2] in self._option_string_actions)


def _parse_int(text: str) -> int:
    """An integer of 64 bits.

    Raises:
        ArgumentTypeError: it is larger.
        ValueError: it is something else.
    """
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is too large")
    return number


_TYPES = {"int": "a whole number", "float": "a number"}


def _reworded(message: str, parser: Parser) -> str:
    """A message of argparse in words that name the remedy."""
    if found := re.fullmatch(r"argument (\S+): invalid (\w+) value: (.*)", message, re.DOTALL):
        flag, kind, value = found.groups()
        return f"{flag} {value} is not {_TYPES.get(kind, kind)}"
    if found := re.fullmatch(r"argument (\S+): (\S+ is too large)", message):
        return f"{found[1]} {found[2]}"
    if found := re.fullmatch(r"argument (\S+): not allowed with argument (\S+)", message):
        return f"{found[1]} is not allowed with {found[2]}: leave one of them out"
    if found := re.fullmatch(r"argument (\S+): expected one argument", message):
        return f"{found[1]} needs a value"
    if found := re.fullmatch(r"one of the arguments (.*) is required", message):
        return f"one of {found[1].replace(' ', ', ')} is missing"
    if found := re.fullmatch(r"the following arguments are required: (.*)", message):
        return parser.missing(found[1].split(", "))
    return message
