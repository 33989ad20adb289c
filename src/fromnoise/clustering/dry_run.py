"""What a clustering would be: the resolved recipe, its images, and its time and memory on this machine."""

from __future__ import annotations

from collections.abc import Callable

from fromnoise.clustering.assessments import assessed_images
from fromnoise.clustering.budget import e_steps, wanted_measurements
from fromnoise.clustering.task import build_model, limit_patch, prepare
from fromnoise.config import Recipe
from fromnoise.training.dry_run import DryRun, measure
from fromnoise.utils.device import ComputeConfig


def dry_run(recipe: Recipe, compute: ComputeConfig, log: Callable[[str], None]) -> DryRun:
    """Measure what a clustering would cost; nothing is written.

    Args:
        recipe: of the clustering.
        compute: device and precision.
        log: receives messages about the data.

    Raises:
        UserError: the recipe or its data do not fit.
    """
    task = prepare(recipe, log)
    recipe = limit_patch(recipe, task)
    remaining = len(task.remaining.index) if task.remaining is not None else 0
    remaining += assessed_images(len(task.index))
    return measure(
        build_model(recipe, task),
        task.data,
        compute,
        wanted_measurements(recipe),
        lambda cost: e_steps(recipe, len(task.index), remaining, cost.forward_seconds),
    )
