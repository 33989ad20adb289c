"""A network that suits the images, the budget and this machine: the widest that still sees enough images."""

from __future__ import annotations

import math
from collections.abc import Callable

from fromnoise.config import Recipe, change, get
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.training.cost import estimate
from fromnoise.training.optim import Budget
from fromnoise.utils.device import ComputeConfig

WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
IMAGES = 0.04
"""Seen for each parameter, below which a smaller network is the better one: size and data grow together
(Hoffmann et al. 2022); the number is of docs/results/training-time.md."""
_SIDE = 16  # of the finest level


def shaped(recipe: Recipe, shape: tuple[int, int, int]) -> Recipe:
    """The recipe with the patches and levels that suit images of a size.

    The finest level is about 16 pixels wide, the coarsest 7 or 8, which attends; smaller images keep their pixels.

    Args:
        recipe: ``train.autosize`` names which of ``network.patch``, ``multipliers``, ``attention_resolutions`` to set.
        shape: (C, H, W) of the images.
    """
    side = math.sqrt(shape[1] * shape[2])
    patch = 2 ** max(0, round(math.log2(side / _SIDE)))
    levels = 2 if side / patch > 6 else 1
    coarsest = max(1, round(side / patch / 2 ** (levels - 1)))
    chosen = {
        "network.patch": patch,
        "network.multipliers": tuple(2**level for level in range(levels)),
        "network.attention_resolutions": (coarsest,),
    }
    return change(recipe, {key: v for key, v in chosen.items() if key in recipe.train.autosize})


def fit(
    recipe: Recipe, dataset_info: DatasetInfo, images: int, compute: ComputeConfig, log: Callable[[str], None]
) -> Recipe:
    """The recipe with the keys that ``train.autosize`` names chosen.

    Args:
        recipe: whose budget counts; one in steps, epochs or images takes the width that it has.
        facts: of the data.
        images: training images.
        compute: where it will train.
        say: takes a line that tells the choice.
    """
    recipe = shaped(recipe, dataset_info.shape)
    seconds = Budget.from_config(recipe.train, images).seconds
    if "network.width" not in recipe.train.autosize or seconds is None:
        return recipe
    best, told = None, ""
    for width in WIDTHS:
        wider = change(recipe, {"network.width": width})
        cost = estimate(build(wider, dataset_info), compute, images=recipe.train.batch // recipe.train.accumulate)
        steps = int(seconds / cost.step_seconds)
        if best is not None and steps * recipe.train.batch < IMAGES * cost.parameters:
            break
        best, told = wider, f"{cost.parameters:,} parameters, about {steps:,} steps"
    assert best is not None
    log(f"for this budget on this machine: network.width {best.network.width}, {told}")
    return best


def taken(recipe: Recipe, before: Recipe) -> Recipe:
    """The recipe with what was chosen when the run began."""
    return change(recipe, {key: get(before, key) for key in recipe.train.autosize})
