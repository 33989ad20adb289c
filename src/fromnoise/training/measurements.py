"""The measurements of a run: their plan, the time that they took, and which of them are due."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from fromnoise.config import Recipe
from fromnoise.training.measurement_plan import MeasurementPlan, is_due
from fromnoise.training.optim import Budget
from fromnoise.training.overhead import Overhead


class Measurements:
    """Held-out losses, previews, evaluations and final samples of a run.

    Attributes:
        wanted: what the plan is a part of.
        plan: ``wanted`` until ``set_plan``.
        restored: whether the plan is that of a training state.
        reserve: seconds by which a budget in minutes ends earlier, for what follows the last step.
        overhead: the time that measurements and checkpoints take.
    """

    def __init__(self, recipe: Recipe, wanted: MeasurementPlan | None = None) -> None:
        """Plan everything.

        Args:
            recipe: of the run.
            wanted: the measurements; None for everything that the recipe asks for.
        """
        self._train, self.wanted = recipe.train, wanted or MeasurementPlan.from_recipe(recipe)
        self.plan, self.restored, self.reserve, self.overhead = self.wanted, False, 0.0, Overhead()

    def set_plan(self, plan: MeasurementPlan, reserve: float) -> None:
        """Replace the plan and the reserve."""
        self.plan, self.reserve = plan, reserve

    def reserve_more(self, seconds: float) -> None:
        """End a budget in minutes earlier still, by the duration of a checkpoint."""
        if self._train.minutes is not None and not self.restored:
            self.reserve += seconds

    def budget(self, images: int) -> Budget:
        """The budget of the recipe without the reserve.

        Args:
            images: number of training images.
        """
        whole = Budget.from_config(self._train, images)
        return whole if whole.seconds is None else replace(whole, seconds=max(1e-9, whole.seconds - self.reserve))

    def held_out_due(
        self, step: int, used_before: float, used_now: float, agree: Callable[[bool], bool] = bool
    ) -> bool:
        """Whether the held-out loss is measured after a step.

        Args:
            step: number of steps done.
            used_before: fraction of the budget used before the step.
            used_now: fraction used after it.
            agree: makes the decisions of several processes equal; called by all or none of them.
        """
        if step == 1 and self.plan.at_start and self.plan.evaluations:
            return True
        due = is_due(used_before, used_now, self.plan.evaluations)
        return due and agree(self.overhead.allows("held-out evaluation", used_now))

    # ---- in the header of a training state

    def to_json(self) -> dict[str, Any]:
        """The plan, and what it depends on besides the speed of the machine."""
        return {"wishes": self._wishes(), "plan": asdict(self.plan), "reserve": self.reserve}

    def restore(self, saved: object) -> None:
        """Take what ``to_json`` returned, if the recipe still asks for the same; otherwise nothing changes."""
        if not isinstance(saved, dict) or set(saved) != {"wishes", "plan", "reserve"}:
            return
        plan, reserve = saved["plan"], saved["reserve"]
        if saved["wishes"] != self._wishes() or not isinstance(plan, dict) or set(plan) != set(asdict(self.wanted)):
            return
        if not isinstance(reserve, int | float) or not 0 <= reserve < math.inf:
            return
        if all(isinstance(v, int) and 0 <= v < 2**31 for v in plan.values()):
            self.plan, self.reserve, self.restored = MeasurementPlan(**plan), float(reserve), True

    def _wishes(self) -> dict[str, Any]:
        train = self._train
        budget = {key: getattr(train, key) for key in ("steps", "epochs", "images", "minutes")}
        return budget | {"share": train.evaluation_share} | asdict(self.wanted)
