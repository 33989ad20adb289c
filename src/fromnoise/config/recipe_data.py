"""The data that a recipe names, and their description for the model."""

from __future__ import annotations

from collections.abc import Callable

from fromnoise import registry
from fromnoise.config.recipe import Recipe
from fromnoise.data import Data, load
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.data.spec import parse_spec
from fromnoise.utils.errors import UserError


def open_data(recipe: Recipe, log: Callable[[str], None]) -> Data:
    """Load the images of a recipe.

    Raises:
        UserError: the recipe names no data, or data with labels are required but have none; or as ``data.load``.
    """
    d = recipe.data
    if not d.source:
        raise UserError(
            "the recipe names no data: use --data FOLDER (or a .zip, .npz, .parquet, hub:owner/name or named data set)"
        )
    data = load(
        d.source,
        size=d.size,
        channels=d.channels,
        resize=d.resize,
        holdout=d.holdout,
        seed=recipe.train.seed,
        memory_limit=int(d.memory_gb * 2**30),
        workers=d.workers,
        attributes=d.attributes,
        skip_damaged=d.skip_damaged,
        log=log,
    )
    if d.labels and data.class_names is None:
        raise UserError(
            f"{d.source} has no labels: put the images of each class in a folder of its own, or leave out data.labels"
        )
    return data


def dataset_info(recipe: Recipe, data: Data) -> DatasetInfo:
    """Describe the data for a model that is conditioned as the recipe says."""
    return DatasetInfo(data.shape, data.class_names if recipe.data.labels else None, data.fingerprint, data.attributes)


def declared_info(recipe: Recipe) -> DatasetInfo | None:
    """Describe the data of a recipe without opening them, by what the named data set declares.

    Returns:
        Shape and classes, with the numbers of the classes as their names; None if the data are not a named data set,
        or if the recipe leaves open what the data set does not declare.
    """
    d = recipe.data
    name = parse_spec(d.source)[0] if d.source else ""
    if name not in registry.names("dataset"):
        return None
    dataset = registry.get("dataset", name)
    channels = d.channels or getattr(dataset, "channels", None)
    size = d.size or getattr(dataset, "size", None)
    classes = getattr(dataset, "classes", None)
    if channels is None or size is None or (d.labels and classes is None) or d.attributes:
        return None
    height, width = size
    return DatasetInfo((channels, height, width), tuple(map(str, range(classes or 0))) if d.labels else None)
