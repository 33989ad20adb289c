"""Components of a recipe, built."""

from __future__ import annotations

from typing import Any

from fromnoise import registry
from fromnoise.utils.errors import UserError


def component(family: str, config: Any, **context: Any) -> Any:
    """Build a component of a recipe.

    Args:
        family: of the component.
        config: its kind and options, a ``ComponentConfig``.
        context: what the package supplies.

    Raises:
        UserError: its constructor refuses an option.
    """
    try:
        return registry.build(family, config.kind, config.options(), **context)
    except ValueError as e:
        raise UserError(f"{family.replace('_', ' ')} {config.kind}: {e}") from None
