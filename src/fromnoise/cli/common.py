"""What several verbs do alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fromnoise.data import Data
    from fromnoise.model import Model


def check_minimum(*limits: tuple[str, int | None, int]) -> None:
    """Check (flag, number, least) each.

    Raises:
        UserError: a number is too small.
    """
    from fromnoise.utils.errors import UserError

    for flag, number, least in limits:
        if number is not None and number < least:
            raise UserError(f"{flag} {number} is too small: take at least {least}")


def parse_times(flag: str, text: str) -> list[float]:
    """Times t in (0, 1], with commas.

    Raises:
        UserError: they are none.
    """
    from fromnoise.utils.errors import UserError

    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = [0.0]
    if not all(0 < t <= 1 for t in found):
        raise UserError(f"{flag} {text} must be times in (0, 1], such as 1,0.5")
    return found


def load_model_data(model: Model, spec: str | None, log: Callable[[str], None]) -> Data:
    """Images in the shape that a model draws: of ``spec``, or those of its own recipe, held out as when it trained.

    Raises:
        UserError: as ``data.load``.
    """
    from fromnoise.config.recipe_data import open_data

    channels, height, width = model.dataset_info.shape
    own = model.recipe.data
    config = own.model_copy(update={"source": spec or own.source, "size": (height, width), "channels": channels})
    return open_data(model.recipe.model_copy(update={"data": config}), log)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write results for programs.

    Raises:
        UserError: as ``disk.write_atomic``.
    """
    import json

    from fromnoise.utils.files import write_atomic

    write_atomic(path, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())
