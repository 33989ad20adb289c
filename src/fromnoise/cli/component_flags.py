"""Flags for the options of registered components, made from their constructors.

``--sampler ddim --eta 0.5`` chooses a component and sets its options; one that the chosen component does not have is
refused with the components that have it.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from fromnoise.config import ComponentConfig
    from fromnoise.registry import Option


def options_by_name(family: str) -> dict[str, list[tuple[str, Option]]]:
    """Each option of a family with the components that have it."""
    import fromnoise.config  # noqa: F401  registers the components
    from fromnoise import registry

    found: dict[str, list[tuple[str, Option]]] = {}
    for name in registry.names(family):
        for option in registry.options(family, name).values():
            found.setdefault(option.name, []).append((name, option))
    return found


def add_flags(parser: argparse.ArgumentParser, family: str, flag: str, description: str) -> None:
    """Declare the flag of a component and those of all options of its family.

    Args:
        parser: takes them.
        family: as of ``registry.register``.
        flag: of the component, such as ``--sampler``.
        description: its help.
    """
    from fromnoise import registry

    options = options_by_name(family)
    parser.add_argument(flag, metavar="NAME", help=f"{description}: {', '.join(registry.names(family))}")
    for name, owners in options.items():
        kinds = set(get_args(owners[0][1].type)) or {owners[0][1].type}
        text = f"{', '.join(owner for owner, _ in owners)}: {owners[0][1].help}".rstrip(".")
        number = float if float in kinds else int if int in kinds and bool not in kinds else str
        parser.add_argument(
            f"--{name.replace('_', '-')}", dest=f"{family}_{name}", metavar=name[0].upper(), type=number, help=text
        )


def add_list_of_components(family: str) -> str:
    """The components of a family with their summaries, for the end of a help text."""
    import fromnoise.config  # noqa: F401  registers the components
    from fromnoise import registry

    width = max(map(len, registry.names(family)), default=0) + 2
    lines = [f"  {name:{width}}{registry.summary(registry.get(family, name))}" for name in registry.names(family)]
    return "\n".join([f"{family.replace('_', ' ')}s:", *lines])


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
        family: as of ``add_flags``.
        chosen: value of the component's flag, or None.
        own: the component without flags.
        flag: as of ``add_flags``; left out: ``--family``.

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
                f"--{name.replace('_', '-')} does not apply to {title} {kind}: "
                f"leave it out, or use {flag} {' or '.join(owners)}"
            )
    return {"kind": kind} | (own.options() if kind == own.kind else {}) | given
