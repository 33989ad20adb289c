"""What a training would be: the resolved recipe, its data, and its time and memory on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fromnoise.config import Recipe
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.data import Data
from fromnoise.model import build_trainable
from fromnoise.training.autosize import autosize
from fromnoise.training.base_model import with_base
from fromnoise.training.cost_estimate import CostEstimate, estimate_cost, quick_estimate
from fromnoise.training.forecast import Forecast, OtherWork, duration, no_other_work
from fromnoise.training.latents import own_budget, trains_first, with_autoencoder
from fromnoise.training.measurement_plan import MeasurementPlan
from fromnoise.training.optim import Budget
from fromnoise.training.recipe_choice import for_size
from fromnoise.training.self_evaluation import features_seconds
from fromnoise.training.threads import restored_threads
from fromnoise.training.trainable import Trainable
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
    recipe = with_autoencoder(for_size(recipe, data.shape), None)
    info = dataset_info(recipe, data)
    if recipe.train.autosize:
        recipe = autosize(recipe, info, len(data.train), compute, log)
    found = measure(with_base(build_trainable(own_budget(recipe), info), compute), data, compute)
    if not trains_first(recipe):
        return found
    first = f"the autoencoder is trained first, for {recipe.latent.share:.0%} of the budget (latent.share)"
    return replace(found, recipe=recipe, lines=(first, *found.lines))


def measure(
    model: Trainable,
    data: Data,
    compute: ComputeConfig,
    wanted: MeasurementPlan | None = None,
    other: Callable[[CostEstimate], OtherWork] = no_other_work,
) -> DryRun:
    """Measure what the training of a model would cost.

    Args:
        model: with initial weights.
        data: of the training.
        compute: device and precision.
        wanted: the measurements; None for those of the recipe.
        other: work besides steps and measurements, from the cost of training.

    Raises:
        UserError: the features of evaluations are not available.
    """
    recipe = model.recipe
    wanted = wanted or MeasurementPlan.from_recipe(recipe)
    with restored_threads():
        cost, _ = quick_estimate(model, compute, recipe.train.threads)
        if cost.step_seconds < _MEASURED_SECONDS:  # which is more accurate
            cost = estimate_cost(model, compute, images=recipe.train.batch // recipe.train.accumulate)
        features = features_seconds(model, data, compute) if wanted.self_evaluations else 0.0
        computed_on = compute.describe()
    budget, held_out = Budget.from_config(recipe.train, len(data.train)), len(data.held_out)
    forecast = Forecast.of(model, budget, held_out, cost, features=features, wanted=wanted, other=other(cost))
    plan, counted = forecast.plan, f"{forecast.plan.evaluations} held-out losses"
    if plan.self_evaluations:
        counted += f", {plan.self_evaluations} evaluations ({duration(forecast.costs.features)} for their features)"
    notes = forecast.warning(recipe, len(data.train)), plan.describe_cuts(wanted)
    lines = (
        f"{cost.parameters:,} trainable parameters; images {'x'.join(map(str, data.shape))}",
        f"{len(data.train):,} training images, {len(data.held_out):,} held out",
        f"{forecast.describe()} on {computed_on}",
        f"about {plan.seconds(forecast.costs):.0f} s of it for {counted}, {plan.previews} previews and "
        f"{plan.final_samples} final samples",
        *filter(None, notes),
        f"about {cost.memory_mb:,.0f} MB of memory for the network",
    )
    return DryRun(recipe, data, forecast, lines)
