"""Flags for the options of registered samplers, guidance and other components, made from their constructors.

``--sampler ddim --eta 0.5`` chooses a component and sets its options; one that the chosen component does not have is
refused with the components that have it. An option whose flag the verb has already, which a plug-in may add, is
``--sampler-NAME``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from fromnoise.cli.parsing import parse_value

if TYPE_CHECKING:
    from fromnoise.config import ComponentConfig
    from fromnoise.registry import Option


def options_by_name(family: str) -> dict[str, list[tuple[str, Option]]]:
    """Each option of a family with the components that have it."""
    import fromnoise.diffusion  # noqa: F401  registers samplers, guidance and inverse solvers
    from fromnoise import registry

    found: dict[str, list[tuple[str, Option]]] = {}
    for name in registry.names(family):
        for option in registry.options(family, name).values():
            found.setdefault(option.name, []).append((name, option))
    return found


def names(family: str) -> list[str]:
    """The names of a family's components."""
    import fromnoise.diffusion  # noqa: F401  registers them
    from fromnoise import registry

    return registry.names(family)


def add_flag(parser: argparse.ArgumentParser, family: str, flag: str, description: str) -> None:
    """Declare the flag of a component; ``add_option_flags`` then declares those of the options of its family.

    Args:
        parser: takes it.
        family: as of ``registry.register``.
        flag: of the component, such as ``--sampler``.
        description: its help.
    """
    options = options_by_name(family)
    parser.add_argument(flag, metavar="NAME", help=f"{description}: {', '.join(names(family))}")
    parser.set_defaults(option_flags=(parser.get_default("option_flags") or {}) | {family: dict.fromkeys(options, "")})


def add_option_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the options of all components that a verb takes, after all other flags."""
    from fromnoise import registry

    declared: dict[str, dict[str, str]] = parser.get_default("option_flags") or {}
    taken = set(parser._option_string_actions)
    for own in (True, False):  # those of the package first, so that a plug-in renames none of them
        for family, flags in declared.items():
            for name, owners in options_by_name(family).items():
                if own != registry.get(family, owners[0][0]).__module__.startswith("fromnoise."):
                    continue
                word = f"--{name.replace('_', '-')}"
                flags[name] = f"--{family}-{name}".replace("_", "-") if word in taken else word
                taken.add(flags[name])
    for family, flags in declared.items():
        group = parser.add_argument_group(f"options of {_plural(family)}")
        for name, owners in options_by_name(family).items():
            group.add_argument(
                flags[name],
                dest=f"{family}_{name}",
                metavar=name[0].upper(),
                type=_value_parser([option.type for _, option in owners]),
                help=f"{', '.join(owner for owner, _ in owners)}: {owners[0][1].help}".rstrip(".").replace("%", "%%"),
            )


def _plural(family: str) -> str:
    return family if family == "guidance" else f"{family.replace('_', ' ')}s"


def _value_parser(annotations: list[Any]) -> Callable[[str], Any]:
    """What makes an option's value of a word: a number, the word, or, for other or several types, a TOML value."""
    found = set()
    for annotation in annotations:
        union = get_origin(annotation) in (Union, UnionType)
        found |= set(get_args(annotation)) - {type(None)} if union else {annotation}
    if found <= {int, float}:
        return float if float in found else int
    return str if found == {str} else parse_value


def add_list_of_components(family: str) -> str:
    """The components of a family with their summaries, for the end of a help text."""
    import fromnoise.diffusion  # noqa: F401  registers samplers, guidance and inverse solvers
    from fromnoise import registry

    width = max(map(len, registry.names(family)), default=0) + 2
    lines = [f"  {name:{width}}{registry.summary(registry.get(family, name))}" for name in registry.names(family)]
    return "\n".join([f"{_plural(family)}:", *lines])


def given_options(args: argparse.Namespace, family: str) -> dict[str, Any]:
    """The options of a family that were given as flags, by name."""
    found = {name: getattr(args, f"{family}_{name}", None) for name in options_by_name(family)}
    return {name: value for name, value in found.items() if value is not None}


def component_from_flags(
    args: argparse.Namespace, family: str, chosen: str | None, own: ComponentConfig, flag: str = ""
) -> dict[str, Any] | None:
    """The component that the flags describe, as a table; None if no flag changes it.

    Args:
        args: the parsed flags.
        family: as of ``add_flag``.
        chosen: value of the component's flag, or None.
        own: the component without flags.
        flag: as of ``add_flag``; left out: ``--family``.

    Raises:
        UserError: an option that the component does not have.
    """
    from fromnoise import registry
    from fromnoise.utils.errors import UserError

    given = given_options(args, family)
    if chosen is None and not given:
        return None
    kind, flag, title = chosen or own.kind, flag or f"--{family.replace('_', '-')}", family.replace("_", " ")
    try:
        has = registry.options(family, kind)
    except ValueError as e:
        raise UserError(f"{flag}: {e}") from None
    for name in given:
        if name not in has:
            owners = [owner for owner, _ in options_by_name(family)[name]]
            raise UserError(
                f"{args.option_flags[family][name]} does not apply to {title} {kind}: "
                f"leave it out, or use {flag} {' or '.join(owners)}"
            )
    return {"kind": kind} | (own.options() if kind == own.kind else {}) | given
