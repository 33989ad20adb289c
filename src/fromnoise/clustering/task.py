"""The images of a clustering run, and the model that is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.clustering.init import check_count
from fromnoise.config import Recipe
from fromnoise.config.recipe_data import open_data
from fromnoise.data import Data, Images, MemoryImages, shuffled_indices
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import Model, build


@dataclass(frozen=True)
class RemainingImages:
    """Held-out images of the same data set, which are assigned to clusters after training.

    Attributes:
        images: the images.
        index: their indices in the data set, int64 (M,).
        labels: their true classes, int64 (M,); None if unknown.
    """

    images: Images
    index: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class ClusteringTask:
    """Images to cluster.

    Attributes:
        data: ``train`` contains the images to cluster; EM overwrites their labels.
        index: indices of the images in the data set, int64 (N,).
        labels: true classes, int64 (N,); None if unknown. Only the scores use them.
        class_names: names of the true classes.
        images_in_set: number of images in the data set that ``index`` counts.
        remaining: None if the held-out images are a split of their own, or a part of the images was requested.
    """

    data: Data
    index: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...] | None
    images_in_set: int
    remaining: RemainingImages | None


def prepare(recipe: Recipe, log: Callable[[str], None]) -> ClusteringTask:
    """Open the training images of a recipe.

    Args:
        recipe: names the data, and gives the seed and the numbers of clusters and of images.
        log: called with messages about the data.

    Raises:
        UserError: the data cannot be opened, or there are fewer images than clusters.
    """
    unlabelled = recipe.model_copy(update={"data": recipe.data.model_copy(update={"labels": False})})
    data = open_data(unlabelled, log)
    images = data.train
    chosen, limit = torch.arange(len(images)), recipe.clustering.images
    if limit is not None and limit < len(images):
        chosen = shuffled_indices(len(images), recipe.train.seed, range(limit)).sort().values
    labels = images.labels[chosen] if images.labels is not None and data.class_names is not None else None
    index = images.rows[chosen]
    if len(chosen) < len(images):
        images = MemoryImages(images.get(chosen))
    check_count(len(images), recipe.clustering.count)
    images.labels = torch.zeros(len(images), dtype=torch.int64)  # EM overwrites them
    held_out = data.held_out
    one_split = not bool(torch.isin(held_out.rows, data.train.rows).any())
    rows = torch.cat([data.train.rows, held_out.rows]) if one_split else data.train.rows
    remaining = None
    if one_split and limit is None:
        remaining = RemainingImages(held_out, held_out.rows, held_out.labels if data.class_names is not None else None)
    held_out.labels = None
    unlabelled_data = replace(data, train=images, class_names=None)
    return ClusteringTask(unlabelled_data, index, labels, data.class_names, int(rows.max()) + 1, remaining)


def limit_patch(recipe: Recipe, task: ClusteringTask) -> Recipe:
    """The recipe with a patch size that leaves at least four patches along each side of the images."""
    patch = recipe.network.patch
    while patch > 1 and 4 * patch > min(task.data.shape[1:]):
        patch //= 2
    return recipe.model_copy(update={"network": recipe.network.model_copy(update={"patch": patch})})


def build_model(recipe: Recipe, task: ClusteringTask, names: tuple[str, ...] | None = None) -> Model:
    """A model with initial weights whose classes are the clusters; their names are numbers if left out.

    Raises:
        UserError: the recipe is one of latents.
    """
    names = names or tuple(map(str, range(recipe.clustering.count)))
    model = build(recipe, DatasetInfo(task.data.shape, names, task.data.fingerprint))
    model.require_pixels("clustering")
    return model
