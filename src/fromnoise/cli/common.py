"""Functions that several commands use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fromnoise.data import Data
    from fromnoise.model import Model


def check_minimum(*limits: tuple[str, int | None, int]) -> None:
    """Check several numbers.

    Args:
        limits: for each number its flag, its value (None if it was not given) and its minimum.

    Raises:
        UserError: a number is too small.
    """
    from fromnoise.utils.errors import UserError

    for flag, number, minimum in limits:
        if number is not None and number < minimum:
            raise UserError(f"{flag} {number} is too small: use at least {minimum}")


def parse_times(flag: str, text: str) -> list[float]:
    """Parse times t in (0, 1], separated by commas.

    Raises:
        UserError: the text is something else.
    """
    from fromnoise.utils.errors import UserError

    try:
        times = [float(word) for word in text.split(",")]
    except ValueError:
        times = [0.0]
    if not all(0 < t <= 1 for t in times):
        raise UserError(f"{flag} {text} must be times in (0, 1]: write it as 1,0.5")
    return times


def load_model_data(model: Model, spec: str | None, log: Callable[[str], None]) -> Data:
    """Load images in the shape that a model samples.

    Args:
        model: the model.
        spec: the data; None for those that the model was trained on, held out as in its training.
        log: as of ``fromnoise.data.load``.

    Raises:
        UserError: as ``fromnoise.data.load``.
    """
    from fromnoise.config.recipe_data import open_data

    channels, height, width = model.dataset_info.shape
    own = model.recipe.data
    config = own.model_copy(update={"source": spec or own.source, "size": (height, width), "channels": channels})
    return open_data(model.recipe.model_copy(update={"data": config}), log)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write results in a form that programs read.

    Raises:
        UserError: as ``write_atomic``.
    """
    import json

    from fromnoise.utils.files import write_atomic

    write_atomic(path, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())
