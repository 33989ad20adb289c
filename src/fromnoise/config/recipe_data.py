"""The data that a recipe names, and their description for the model."""

from __future__ import annotations

from collections.abc import Callable

from fromnoise.config.recipe import Recipe
from fromnoise.data import Data, load
from fromnoise.data.dataset_info import DatasetInfo
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
        holdout=d.holdout,
        seed=recipe.train.seed,
        memory_limit=int(d.memory_gb * 2**30),
        workers=d.workers,
        attributes=d.attributes,
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
