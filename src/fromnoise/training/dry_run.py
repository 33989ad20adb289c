"""What a training would be: the resolved recipe, its data, and its time and memory on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fromnoise.config import Recipe
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.data import Data
from fromnoise.model import build
from fromnoise.training.autosize import autosize
from fromnoise.training.cost_estimate import estimate_cost, quick_estimate
from fromnoise.training.forecast import Forecast
from fromnoise.training.measurement_plan import MeasurementPlan
from fromnoise.training.optim import Budget
from fromnoise.training.threads import restored_threads
from fromnoise.utils.device import ComputeConfig

_MEASURED_SECONDS = 5.0  # of a quick estimate, up to which a whole micro-batch is measured


@dataclass(frozen=True)
class DryRun:
    """What a training would be.

    Attributes:
        recipe: with the values that are chosen at the start.
        data: of the recipe.
        forecast: of the budget.
        lines: parameters, images, time, memory and warnings, for the user.
    """

    recipe: Recipe
    data: Data
    forecast: Forecast
    lines: tuple[str, ...]


def dry_run(recipe: Recipe, compute: ComputeConfig, log: Callable[[str], None]) -> DryRun:
    """Measure what a training would cost; nothing is written.

    Args:
        recipe: of the training.
        compute: device and precision.
        log: receives messages about the data and the choices.

    Raises:
        UserError: the recipe or its data do not fit.
    """
    data = open_data(recipe, log)
    info = dataset_info(recipe, data)
    if recipe.train.autosize:
        recipe = autosize(recipe, info, len(data.train), compute, log)
    model = build(recipe, info)
    with restored_threads():
        cost, _ = quick_estimate(model, compute, recipe.train.threads)
        if cost.step_seconds < _MEASURED_SECONDS:  # which is more accurate
            cost = estimate_cost(model, compute, images=recipe.train.batch // recipe.train.accumulate)
        computed_on = compute.describe()
    forecast = Forecast.of(model, Budget.from_config(recipe.train, len(data.train)), len(data.held_out), cost)
    plan = forecast.plan
    notes = forecast.warning(recipe, len(data.train)), plan.describe_cuts(MeasurementPlan.from_recipe(recipe))
    lines = (
        f"{cost.parameters:,} trainable parameters; images {'x'.join(map(str, data.shape))}",
        f"{len(data.train):,} training images, {len(data.held_out):,} held out",
        f"{forecast.describe()} on {computed_on}",
        f"about {plan.seconds(forecast.costs):.0f} s of it for {plan.evaluations} held-out losses, {plan.previews} "
        f"previews and {plan.final_samples} final samples",
        *filter(None, notes),
        f"about {cost.memory_mb:,.0f} MB of memory for the network",
    )
    return DryRun(recipe, data, forecast, lines)
