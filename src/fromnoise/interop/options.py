"""Importers and exporters from their names and options."""

from __future__ import annotations

from typing import Any

from fromnoise import registry
from fromnoise.config.component import OptionError, parse_component
from fromnoise.utils.errors import UserError


def build_with_options(family: str, verb: str, name: str, options: dict[str, Any]) -> Any:
    """An importer or exporter.

    Args:
        family: "importer" or "exporter".
        verb: begins the message of a wrong option.
        name: of the component.
        options: of the component.

    Raises:
        UserError: an unknown component, option or value.
    """
    try:
        chosen = parse_component(family, name, {"kind": name, **options})
        return registry.build(family, name, chosen.options())
    except (OptionError, ValueError) as error:
        where = f"--{error.key.replace('_', '-')}: " if isinstance(error, OptionError) and error.key else ""
        raise UserError(f"{verb} {name}: {where}{error}") from None
