"""Components of a recipe, built."""

from __future__ import annotations

from typing import Any

from fromnoise import registry
from fromnoise.config.component import ComponentConfig
from fromnoise.utils.errors import UserError


def component(family: str, config: ComponentConfig, **context: Any) -> Any:
    """Build a component of a recipe.

    Raises:
        UserError: its constructor refuses an option.
    """
    try:
        return registry.build(family, config.kind, config.options(), **context)
    except ValueError as e:
        raise UserError(f"{family.replace('_', ' ')} {config.kind}: {e}") from None
