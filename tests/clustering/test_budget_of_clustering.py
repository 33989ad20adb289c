"""Budgets of clustering: held-out losses are planned as those of training, and the E-steps are forecast."""

from __future__ import annotations

import pytest

from fromnoise import config as recipes
from fromnoise.clustering.budget import e_steps, wanted_measurements
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.training.cost_estimate import CostEstimate
from fromnoise.training.forecast import Forecast
from fromnoise.training.optim import Budget

KEYS = {
    "clustering.rounds": 3,
    "clustering.e_step_probes": 1,
    "clustering.e_step_refine": 4,
    "clustering.candidates": 2,
}
TINY = {"network.width": 8, "network.patch": 1, "network.groups": 4, "data.source": "digits"}
TINY |= {"clustering.count": 5, "clustering.candidates": 2}

BOUND = 500 * 2 * 8 * 4 * 1e-3


def forecast(**budget):
    """On a machine of 0.1 s a step, and 1 ms an image without gradients."""
    recipe = recipes.load("mixture", KEYS | TINY | {f"train.{key}": value for key, value in budget.items()})
    model = build(recipe, DatasetInfo((1, 8, 8), tuple("01234")))
    work, wanted = e_steps(recipe, 1000, 200, 1e-3), wanted_measurements(recipe)
    cost = CostEstimate(1000, 0.1, 10.0, 1e-3)
    return Forecast.of(model, Budget.from_config(recipe.train, 1000), 200, cost, wanted=wanted, other=work)


def test_e_steps_are_counted():
    """2 (1 x 5 + 4 x 2) evaluations of 1,000 images three times, and of the 200 held-out ones once.

    The bound of 500 of the images in each E-step: 2 x 8 evaluations of two candidates before and after.
    """
    recipe = recipes.load("mixture", KEYS | TINY)
    work = e_steps(recipe, 1000, 200, 1e-3)
    assert work.seconds == pytest.approx(26 * 3.2 + 3 * BOUND) and work.at_end == pytest.approx(26 * 1.2 + BOUND)
    assert work.name == "3 E-steps"
    left = e_steps(recipe, 1000, 200, 1e-3, done=2)
    assert left.seconds == left.at_end == pytest.approx(26 * 1.2 + BOUND) and left.name == "1 E-step"
    assert e_steps(recipe, 1000, 0, 1e-3, done=3).seconds == 0


def test_a_budget_in_minutes_includes_e_steps():
    """The steps are what they leave, and the last E-step is reserved."""
    found = forecast(minutes=10)
    measured = found.plan.seconds(found.costs)
    assert found.plan.previews == found.plan.final_samples == 0 < found.plan.evaluations
    assert measured <= 0.075 * 600
    assert found.steps == int((600 - measured - (26 * 3.2 + 3 * BOUND)) / 0.1)
    assert found.reserve == pytest.approx(26 * 1.2 + BOUND + found.plan.seconds_at_end(found.costs))
    assert "(up to 3.0 minutes for 3 E-steps)" in found.describe()


def test_a_budget_shorter_than_the_e_steps():
    """Half of it is left for training, by what is reserved, and the warning names a budget with room for E-steps."""
    found = forecast(minutes=0.5)
    assert found.reserve == pytest.approx(15) and found.steps == 0
    recipe = recipes.load("mixture", KEYS | TINY | {"train.minutes": 0.5})
    minutes = float(found.warning(recipe, 1000).split("--minutes ")[1].split()[0])
    assert forecast(minutes=minutes).warning(recipe, 1000) == ""
