"""The description of a model in a header (recipe, data, learned steps), checked before anything is built from it."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fromnoise.checkpoint.tensor_file import DamagedFile
from fromnoise.config import MissingComponent, Recipe, parse
from fromnoise.data.dataset import Attribute
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.samplers import TunedSteps
from fromnoise.diffusion.schedules import MAX_STEPS
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import first_line, limits, printable

_MAX_SIDE = 16384  # pixels, as of data.size


def model_header(recipe: Recipe, dataset_info: DatasetInfo) -> dict[str, Any]:
    """Describe a model in a header: its recipe and its data."""
    return {"recipe": recipe.model_dump(mode="json", exclude_none=True), "dataset": asdict(dataset_info)}


def parse_header(header: dict[str, Any], path: str | Path) -> tuple[Recipe, DatasetInfo]:
    """Read what ``model_header`` put into a header.

    Args:
        header: of a file.
        path: of the file, for messages.

    Raises:
        DamagedFile: the header does not describe a model.
        UserError: the recipe has unknown keys, values out of range, or components that are not registered.
    """
    try:
        check_numbers(header["recipe"])
        dataset_info = _parse_dataset_info(header["dataset"])
        return parse(header["recipe"]), dataset_info
    except MissingComponent as missing:
        also = ", or give load its network" if missing.component.startswith("network") else ""
        raise UserError(
            f"{path}: it has the {missing.component}, which is not registered: add --plugin MODULE with the module "
            f"that registers it (in Python: import it first{also})"
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reason = f" ({first_line(error)})" if type(error) is ValueError else ""
        raise DamagedFile(f"{path}: its header does not describe a model of fromnoise{reason}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def tuned_header(tuned: Mapping[int, TunedSteps]) -> dict[str, Any]:
    """Describe learned steps in a header; empty if there are none."""
    return {"tuned": {str(count): asdict(steps) for count, steps in sorted(tuned.items())}} if tuned else {}


def parse_tuned(header: dict[str, Any], path: str | Path) -> dict[int, TunedSteps]:
    """Read what ``tuned_header`` put into a header.

    Raises:
        DamagedFile: the numbers are not those of learned steps.
    """
    try:
        found = [_parse_steps(values) for values in header.get("tuned", {}).values()]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f" ({first_line(error)})" if type(error) is ValueError else ""
        raise DamagedFile(f"{path}: the tuned steps in its header are damaged{reason}") from None
    return {steps.count: steps for steps in found}


def _parse_steps(values: dict[str, Any]) -> TunedSteps:
    times, network_times, keep = (tuple(map(float, values[key])) for key in ("times", "network_times", "keep"))
    weights = tuple(tuple(map(float, row)) for row in values["weights"])
    return TunedSteps(times, network_times, keep, weights, float(values.get("guidance", 1.0)))


_LARGEST = {
    **{"network": 1 << 16, "autoencoder": 1 << 16, "reconstruction": 1 << 16, "diffusion": MAX_STEPS},
    **{"loss": MAX_STEPS, "sample": MAX_STEPS, "published": MAX_STEPS},
}
"""Largest whole number in a section of a recipe that is read from a file; no network or schedule needs larger ones."""
_LARGEST_LIST = {"network": 64, "autoencoder": 64}


def check_numbers(recipe: dict[str, Any]) -> None:
    """Check the numbers of a recipe before a component is built from them.

    Raises:
        ValueError: a number is too large.
    """
    for section, largest in _LARGEST.items():
        waiting = [(section, recipe.get(section))]
        while waiting:
            key, value = waiting.pop()
            if isinstance(value, dict):
                waiting += [(f"{key}.{name}", inner) for name, inner in value.items()]
            elif isinstance(value, list):
                if len(value) > _LARGEST_LIST.get(section, largest):
                    raise ValueError(f"{key} has {len(value)} values")
                waiting += [(key, inner) for inner in value]
            elif isinstance(value, int) and abs(value) > largest:
                raise ValueError(f"{key} = {str(value)[:20]} is too large")


def _parse_dataset_info(values: dict[str, Any]) -> DatasetInfo:
    """Read the description of the data in a header.

    Raises:
        Exception: it is not one.
    """
    channels, height, width = (operator.index(side) for side in values["shape"])
    too_large = channels > 1024 or max(height, width) > _MAX_SIDE or height * width > limits().pixels
    if min(channels, height, width) < 1 or too_large:
        raise ValueError(f"images of {channels}x{height}x{width}")
    names, attributes = values["class_names"], values.get("attributes")
    class_names = tuple(_printable(name) for name in names) if names is not None else None
    if class_names is not None and not class_names:
        raise ValueError("no classes")
    parsed = [Attribute(_printable(a["name"]), float(a["mean"]), float(a["deviation"])) for a in attributes or ()]
    if not all(math.isfinite(v) for a in parsed for v in (a.mean, a.deviation)):
        raise ValueError("attributes that are not finite")
    return DatasetInfo((channels, height, width), class_names, str(values["fingerprint"]), tuple(parsed) or None)


def _printable(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError
    return printable(name)
