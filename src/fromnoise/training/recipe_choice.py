"""The recipe for images of a size: a recipe can name another one for larger images."""

from __future__ import annotations

from fromnoise.config import BUDGETS, Recipe, change, difference, get, names
from fromnoise.config import load as load_recipe
from fromnoise.run_dir import RunDir
from fromnoise.training.autosize import LEAST_FACTOR

_OWN_SECTIONS = (
    *("network.", "diffusion.", "loss.", "autoencoder.", "train.optimizer"),
    *("data.pseudo_labels", "sample.clip", "sample.threshold"),
)
"""Keys that belong to the recipe: who changes one of them wants this recipe for images of any size."""
_DESCRIPTIONS = (
    *("name", "about", "cost", "quality", "expected_loss", "loss_source"),
    *("data.large_recipe", "data.large_side"),
)


def for_size(recipe: Recipe, shape: tuple[int, int, int]) -> Recipe:
    """The recipe itself, or the one that it names for images as large as these, with all that was changed in it.

    Args:
        recipe: of a new run.
        shape: (C, H, W) of its images.
    """
    if not recipe.data.large_recipe or min(shape[1:]) < recipe.data.large_side:
        return recipe
    if any(side % LEAST_FACTOR for side in shape[1:]):
        return recipe  # no autoencoder of ours divides them
    return _replaced(recipe) or recipe


def of_run(recipe: Recipe, run_dir: RunDir) -> Recipe:
    """The recipe with which the run in a directory was started, if that was chosen by ``for_size``."""
    if not recipe.data.large_recipe or not run_dir.exists:
        return recipe
    return (_replaced(recipe) or recipe) if run_dir.recipe().name == recipe.data.large_recipe else recipe


def _replaced(recipe: Recipe) -> Recipe | None:
    """The recipe for larger images with the changed values of this one; None if a key of its own was changed."""
    if recipe.name not in names():
        return None
    base = load_recipe(recipe.name)
    changed = [line.split(" is ", 1)[0] for line in difference(base, recipe, _DESCRIPTIONS)]
    if any(key.startswith(_OWN_SECTIONS) for key in changed):
        return None
    budget = next(key for key in BUDGETS if getattr(recipe.train, key) is not None)
    values = {key: get(recipe, key) for key in changed if key not in {f"train.{b}" for b in BUDGETS}}
    return change(load_recipe(recipe.data.large_recipe), values | {f"train.{budget}": getattr(recipe.train, budget)})
