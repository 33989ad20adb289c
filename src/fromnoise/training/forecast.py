"""Before the first step: the number of threads, the plan of measurements, and what a user should know of the budget."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from fromnoise.config import Recipe
from fromnoise.training.cost_estimate import CostEstimate, quick_estimate, sharded_estimate
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.measurement_plan import MeasurementCosts, MeasurementPlan, allowance
from fromnoise.training.optim import Budget
from fromnoise.training.overhead import Overhead
from fromnoise.training.self_evaluation import features_seconds
from fromnoise.training.threads import ThreadTuner, contended, preemptions
from fromnoise.training.trainable import Trainable

_STEPS_AFTER_WARMUP = 300  # rule of thumb: with fewer, no recipe of ours gives recognizable samples
_TIME_CONSTANTS = 3  # of an average without warm-up: the initial weights then have a share of 5 %


@dataclass(frozen=True)
class OtherWork:
    """Work of a run besides training steps, measurements and checkpoints, such as E-steps.

    Attributes:
        seconds: of all of it.
        at_end: of the part that follows the last training step.
        name: of the work, such as "3 E-steps".
    """

    seconds: float = 0.0
    at_end: float = 0.0
    name: str = ""


def no_other_work(cost: CostEstimate) -> OtherWork:
    """For runs that train, measure and sample only."""
    return OtherWork()


@dataclass(frozen=True)
class Forecast:
    """What a budget comes to on this machine.

    Attributes:
        plan: the measurements.
        costs: of the measurements.
        allowed: seconds that the measurements may take.
        steps: number of training steps in all.
        seconds: duration of the run from now on.
        step_seconds: duration of a step.
        other: work besides steps and measurements.
    """

    plan: MeasurementPlan
    costs: MeasurementCosts
    allowed: float
    steps: int
    seconds: float
    step_seconds: float
    other: OtherWork = OtherWork()

    @staticmethod
    def of(
        model: Trainable,
        budget: Budget,
        held_out: int,
        cost: CostEstimate,
        steps_done: int = 0,
        seconds_done: float = 0.0,
        *,
        features: float = 0.0,
        wanted: MeasurementPlan | None = None,
        other: OtherWork = OtherWork(),
    ) -> Forecast:
        """Forecast a run.

        Args:
            model: its recipe sets the measurements.
            budget: of the run.
            held_out: number of held-out images.
            cost: measured on this machine.
            steps_done: of a run that is resumed.
            seconds_done: of a run that is resumed.
            features: seconds of the features before the first evaluation.
            wanted: the measurements; None for those of the recipe.
            other: work besides steps and measurements.
        """
        share = model.recipe.train.evaluation_share
        costs = MeasurementCosts.estimate(model, held_out, cost.forward_seconds, features)
        wanted = wanted or MeasurementPlan.from_recipe(model.recipe)
        if budget.seconds is not None:
            left = max(0.0, budget.seconds - seconds_done)
            allowed = allowance(share, left, in_minutes=True)
            plan = wanted.within(allowed, costs)
            steps = steps_done + int(max(0.0, left - plan.seconds(costs) - other.seconds) / cost.step_seconds)
            return Forecast(plan, costs, allowed, steps, left, cost.step_seconds, other)
        assert budget.steps is not None
        left = max(0, budget.steps - steps_done) * cost.step_seconds
        allowed = allowance(share, budget.steps * cost.step_seconds, in_minutes=False)
        plan = wanted.within(allowed, costs)
        seconds = left + plan.seconds(costs) + other.seconds
        return Forecast(plan, costs, allowed, budget.steps, seconds, cost.step_seconds, other)

    def describe(self) -> str:
        """Steps and duration, in a line."""
        other = f" (up to {duration(self.other.seconds)} for {self.other.name})" if self.other.seconds else ""
        return f"about {self.step_seconds:.3g} s a step, {self.steps:,} steps, {duration(self.seconds)}{other}"

    @property
    def reserve(self) -> float:
        """Seconds by which a budget in minutes ends earlier, for what follows the last step; at most half of it."""
        return min(self.plan.seconds_at_end(self.costs) + self.other.at_end, self.seconds / 2)

    def warning(self, recipe: Recipe, images: int) -> str:
        """A line for a budget that allows too few steps; empty if it is enough.

        Args:
            recipe: its budget is that of the forecast.
            images: number of training images.
        """
        needed = min_steps(recipe, images)
        if self.steps >= needed:
            return ""
        if recipe.train.minutes is None:
            remedy, budget = f"--steps {needed}", f"{self.steps:,} steps are"
        else:
            minutes = (needed * self.step_seconds / (1 - recipe.train.evaluation_share) + self.other.seconds) / 60
            remedy = f"--minutes {_rounded_up(minutes)}"
            budget = f"about {self.steps:,} steps fit in {recipe.train.minutes:g} minutes, which is"
        return (
            f"{budget} too few for recipe {recipe.name}, whose samples need about {needed:,} steps "
            f"(train.min_steps): use {remedy} or more"
        )


def min_steps(recipe: Recipe, images: int) -> int:
    """``train.min_steps``, or a number below which the samples are mostly noise.

    300 steps and two for each of the warm-up; three time constants 1/(1 - decay) of an average that
    starts from the initial weights; an epoch for the weights of the best epoch.

    Args:
        recipe: of the run.
        images: number of training images.
    """
    train, ema = recipe.train, recipe.ema
    if train.min_steps is not None:
        return train.min_steps
    needed = _STEPS_AFTER_WARMUP + 2 * train.warmup
    if ema.decays and ema.warmup == "none":
        constant = ema.update_every / (1 - ema.decays[0])
        needed = max(needed, ema.update_after + math.ceil(round(_TIME_CONSTANTS * constant, 6)))
    if ema.best_epoch:
        needed = max(needed, math.ceil(images / train.batch))
    return needed


def prepare_budget(
    loop: TrainingLoop[Any],
    log: Callable[[str], None],
    other: Callable[[CostEstimate], OtherWork] = no_other_work,
) -> None:
    """Measure the cost of training, choose the number of threads, plan the measurements, and log what to expect.

    Args:
        loop: new or resumed; the plan of a resumed run with a budget in steps stays.
        log: receives the lines.
        other: work besides steps and measurements, from the cost of training.
    """
    accelerator, config, cpu = loop.accelerator, loop.config, loop.compute.device.type == "cpu"
    if loop.budget_used >= 1:
        return
    limit, alone = torch.get_num_threads(), accelerator.num_processes == 1
    cost, features = None, 0.0
    if loop.layout.sharded:  # a whole copy may not fit
        if cpu and config.threads is not None:
            torch.set_num_threads(config.threads)
        cost = sharded_estimate(loop)
        if accelerator.is_main_process and loop.measurements.wanted.self_evaluations:
            features = features_seconds(loop.model, loop.data, loop.compute)
    elif accelerator.is_main_process:
        trial = loop.model.with_module(copy.deepcopy(loop.model.module))
        threads = config.threads if cpu and config.threads is not None else None if alone else limit
        before, start = preemptions(), time.monotonic()
        cost, count = quick_estimate(trial, loop.compute, threads)
        busy = contended(preemptions() - before, time.monotonic() - start)
        if cpu and alone and config.threads is None:
            loop.tuner = ThreadTuner(count, limit, log, contended=busy)
        if loop.measurements.wanted.self_evaluations and not loop.measurements.restored:
            features = features_seconds(loop.model, loop.data, loop.compute)
    elif config.threads is not None and cpu:
        torch.set_num_threads(config.threads)
    cost, features = broadcast_object_list([cost, features])
    assert cost is not None
    progress = loop.progress
    held_out, images = len(loop.data.held_out), len(loop.data.train)
    measurements, in_minutes = loop.measurements, loop.budget.seconds is not None
    forecast = Forecast.of(
        *(loop.model, loop.budget, held_out, cost, progress.step, progress.seconds),
        features=features,
        wanted=measurements.wanted,
        other=other(cost),
    )
    if not measurements.restored:
        measurements.set_plan(forecast.plan, forecast.reserve if in_minutes else 0.0)
        loop.budget = measurements.budget(images)
    if in_minutes:
        measurements.overhead = Overhead(forecast.allowed - measurements.plan.final_samples * forecast.costs.sample)
    if progress.step == 0:
        warning = forecast.warning(loop.model.recipe, images)
        if warning:
            log(warning)
    count = torch.get_num_threads()
    log(forecast.describe() + (f" with {count} thread{'s' if count > 1 else ''}" if cpu else ""))
    cuts = measurements.plan.describe_cuts(measurements.wanted)
    if cuts:
        log(f"within train.evaluation_share {config.evaluation_share:g} of the budget: {cuts}")


def duration(seconds: float) -> str:
    """A duration in hours, minutes or seconds."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} s"


def _rounded_up(value: float) -> str:
    """A number with two significant digits, not below ``value``."""
    unit = 10.0 ** (math.floor(math.log10(max(value, 0.1))) - 1)
    return f"{math.ceil(value / unit - 1e-9) * unit:g}"
