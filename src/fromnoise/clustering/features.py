"""The features of the start ``features``: a file of the user, or activations of a finished diffusion run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.clustering.activation_choice import ActivationChoice, choose
from fromnoise.clustering.activations import Activations, standardized
from fromnoise.clustering.embeddings import is_embeddings_file, read_embeddings
from fromnoise.clustering.task import ClusteringTask
from fromnoise.config import Recipe
from fromnoise.utils.device import ComputeConfig

NOISES = 4
"""Noises whose mean activations are the features of an image."""
CHOICE = "features.json"
"""File of a run directory with the block and time whose activations it started from."""
_CHOICE_PART = 0.6  # of the progress


@dataclass(frozen=True)
class Features:
    """Features of images.

    Attributes:
        matrix: float32 (N, D).
        choice: the block and time whose activations they are; None for those of a file.
    """

    matrix: Tensor
    choice: ActivationChoice | None = None


FeatureSource = Callable[[Callable[[float], object]], Features]
"""Computes features; takes what is called with the completed fraction."""


def feature_source(
    recipe: Recipe, task: ClusteringTask, compute: ComputeConfig, ids: Tensor | None = None
) -> FeatureSource | None:
    """The features that ``clustering.features`` names; None if the start is another.

    Args:
        recipe: of the clustering.
        task: images to cluster.
        compute: device and precision of a run's network.
        ids: numbers of some of the images, whose features alone are computed, int64 (n,).

    Raises:
        UserError: the file or the run cannot be used for these images.
    """
    config, seed = recipe.clustering, recipe.train.seed
    if config.init != "features" or config.features is None:
        return None
    images = task.data.train
    chosen = torch.arange(len(images)) if ids is None else ids
    if is_embeddings_file(config.features):
        matrix = read_embeddings(config.features, task.images_in_set)[task.index[chosen]]
        return lambda on_progress: Features(matrix)
    activations = Activations.from_run(config.features, images.shape, compute, seed)

    def read(on_progress: Callable[[float], object]) -> Features:
        choice = choose(activations, images, lambda part: on_progress(_CHOICE_PART * part))
        rest = 1 - _CHOICE_PART
        features = activations.at(
            images,
            chosen,
            choice.time,
            [choice.layer],
            range(NOISES),
            on_progress=lambda part: on_progress(_CHOICE_PART + rest * part),
        )
        return Features(standardized(features[choice.layer]), choice)

    return read
