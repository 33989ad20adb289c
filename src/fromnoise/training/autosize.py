"""Choose a network that fits the images, the budget and the speed of this machine."""

from __future__ import annotations

import math
from collections.abc import Callable

from fromnoise.config import Recipe, change, get
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.training.cost_estimate import estimate_cost
from fromnoise.training.latents import own_budget
from fromnoise.training.optim import Budget
from fromnoise.utils.device import ComputeConfig

WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Candidates for network.width."""
MIN_IMAGES_PER_PARAMETER = 0.04
"""Training images seen for each parameter, below which a smaller network is better: network and data should grow
together (Hoffmann et al. 2022); the number was measured in docs/results/training-time.md."""
_FINEST_SIDE = 16
_LARGE_SIDE = 96  # pixels
LEAST_FACTOR = 4
"""Smallest ``autoencoder.factor`` that ``choose_factor`` sets."""


def choose_factor(recipe: Recipe, shape: tuple[int, int, int]) -> Recipe:
    """Set ``autoencoder.factor``, if ``train.autosize`` lists it: 8 for images of about 100 pixels and more, or 4.

    4 also where 8 does not divide the sides; so latents are about 16 cells wide, as the finest level of
    ``choose_levels`` is. Where neither divides them the recipe's value stays.

    Args:
        recipe: unchanged without an autoencoder, or with one that has no such option.
        shape: (C, H, W) of the images.
    """
    if "autoencoder.factor" not in recipe.train.autosize or not hasattr(recipe.autoencoder, "factor"):
        return recipe
    wanted = (8, LEAST_FACTOR) if min(shape[1:]) >= _LARGE_SIDE else (LEAST_FACTOR,)
    fits = [f for f in wanted if shape[1] % f == shape[2] % f == 0]
    return change(recipe, {"autoencoder.factor": fits[0]}) if fits else recipe


def choose_levels(recipe: Recipe, shape: tuple[int, int, int]) -> Recipe:
    """Set patch size, multipliers and attention for a resolution.

    The finest level is about 16 pixels wide and the coarsest, which has attention, 7 or 8; smaller images keep their
    resolution.

    Args:
        recipe: only keys that ``train.autosize`` lists are changed.
        shape: (C, H, W) of the images, or of their latents.
    """
    side = math.sqrt(shape[1] * shape[2])
    patch = 2 ** max(0, round(math.log2(side / _FINEST_SIDE)))
    levels = 2 if side / patch > 6 else 1
    coarsest = max(1, round(side / patch / 2 ** (levels - 1)))
    chosen = {
        "network.patch": patch,
        "network.multipliers": tuple(2**level for level in range(levels)),
        "network.attention_resolutions": (coarsest,),
    }
    return change(recipe, {key: value for key, value in chosen.items() if key in recipe.train.autosize})


def autosize(
    recipe: Recipe, dataset_info: DatasetInfo, images: int, compute: ComputeConfig, log: Callable[[str], None]
) -> Recipe:
    """Set the keys that ``train.autosize`` lists.

    The width is the largest with which the budget in minutes still suffices for ``MIN_IMAGES_PER_PARAMETER``; with a
    budget in steps, epochs or images the recipe's width stays.

    Args:
        recipe: has the budget.
        dataset_info: shape and classes of the data.
        images: number of training images.
        compute: device and precision of training.
        log: receives a line on the chosen width.
    """
    if recipe.latent.source == "":  # of a trained autoencoder it is given
        recipe = choose_factor(recipe, dataset_info.shape)
    if recipe.reconstruction is not None:
        return recipe
    recipe = choose_levels(recipe, build(recipe, dataset_info, device="meta").shape(None))
    seconds = Budget.from_config(own_budget(recipe).train, images).seconds
    if "network.width" not in recipe.train.autosize or seconds is None:
        return recipe
    best, description = None, ""
    for width in WIDTHS:
        wider = change(recipe, {"network.width": width})
        micro_batch = recipe.train.batch // recipe.train.accumulate
        cost = estimate_cost(build(wider, dataset_info), compute, images=micro_batch)
        steps = int(seconds / cost.step_seconds)
        if best is not None and steps * recipe.train.batch < MIN_IMAGES_PER_PARAMETER * cost.parameters:
            break
        best, description = wider, f"{cost.parameters:,} parameters, about {steps:,} steps"
    assert best is not None
    log(f"network.width {best.network.width} for this budget on this machine: {description}")
    return best


def keep_choices(recipe: Recipe, previous: Recipe) -> Recipe:
    """Take the keys that ``train.autosize`` lists from the recipe with which the run was started."""
    return change(recipe, {key: get(previous, key) for key in recipe.train.autosize})
