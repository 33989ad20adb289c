"""What the form of a new run asks for, checked, and the command line that does the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromnoise.utils.errors import UserError
from fromnoise.web.fields import Fields
from fromnoise.web.requests import component, shown_path
from fromnoise.web.run_state import is_clustering, recipe_values

TASKS = ("train", "cluster")
BUDGETS = ("minutes", "steps", "epochs")
CLUSTERING_RECIPE = "mixture"
"""As of fromnoise cluster."""
_MOST_CLUSTERS, _MOST_IMAGES = 1000, 10**8


@dataclass(frozen=True)
class NewRunRequest:
    """A run to start: a training, or a clustering.

    Attributes:
        task: one of ``TASKS``.
        recipe: name of a recipe of the package.
        data: SPEC of the data; None for the recipe's.
        budget: one of ``BUDGETS``; None for the recipe's.
        amount: of the budget.
        labels: condition the model on the classes of the data; of a training.
        clusters: number of clusters; of a clustering.
        images: number of images to cluster; None for all.
    """

    task: str
    recipe: str
    data: str | None
    budget: str | None
    amount: float | None
    labels: bool = False
    clusters: int = 10
    images: int | None = None

    @staticmethod
    def parse(fields: Fields, data_sets: dict[str, Path]) -> NewRunRequest:
        """Read the fields of a form.

        Args:
            fields: of the form.
            data_sets: those of folders that may be chosen; another word is the name of a registered data set.

        Raises:
            UserError: a value is out of range.
        """
        task = fields.choice("task", TASKS)
        recipe = component(fields, "recipe") if task == "train" else CLUSTERING_RECIPE
        if recipe is None:
            raise UserError("choose a recipe")
        data = _data(fields, data_sets)
        if task == "cluster" and data is None:
            raise UserError("choose the images to cluster")
        amount = fields.number("amount", None, 1e-3, 1e9)
        budget = fields.choice("budget", ("", *BUDGETS)) or None
        if budget is not None and amount is None:
            raise UserError(f"how many {budget}?")
        if budget == "epochs" and task == "cluster":
            raise UserError("the budget of a clustering is in minutes or steps")
        return NewRunRequest(
            task,
            recipe,
            data,
            budget,
            amount if budget else None,
            labels=task == "train" and fields.flag("labels"),
            clusters=fields.integer("clusters", 10, 2, _MOST_CLUSTERS) or 10,
            images=fields.integer("images", None, 2, _MOST_IMAGES) if task == "cluster" else None,
        )

    def overrides(self) -> dict[str, Any]:
        """The keys of the recipe that it sets."""
        found: dict[str, Any] = {}
        if self.data is not None:
            found["data.source"] = self.data
        if self.budget is not None and self.amount is not None:
            found[f"train.{self.budget}"] = self._amount()
        if self.task == "cluster":
            found |= {"data.labels": True, "clustering.count": self.clusters}
            return found | ({"clustering.images": self.images} if self.images is not None else {})
        return found | ({"data.labels": True} if self.labels else {})

    def _amount(self) -> int | float:
        assert self.amount is not None
        return int(self.amount) if self.amount == int(self.amount) else self.amount

    def command(self, out: Path) -> list[str]:
        """The words of ``fromnoise train`` or ``fromnoise cluster``."""
        budget = [f"--{self.budget}", f"{self._amount()}"] if self.budget else []
        if self.task == "cluster":
            words = ["cluster", str(self.data), "-q", str(self.clusters)]
            words += ["-n", str(self.images)] if self.images is not None else []
            return [*words, *budget, "--out", shown_path(out)]
        words = ["train", self.recipe]
        words += ["--data", self.data] if self.data is not None else []
        words += budget
        words += ["--data.labels", "true"] if self.labels else []
        return [*words, "--out", shown_path(out)]


def _data(fields: Fields, data_sets: dict[str, Path]) -> str | None:
    data = fields.optional_text("data")
    if data is None:
        return None
    if data in data_sets:
        return shown_path(data_sets[data])
    if not re.fullmatch(r"\w{1,60}", data):
        raise UserError(f"{data[:60]!r} is not one of the data sets that were named: add --data FOLDER to the command")
    return data


def continue_command(run: Path) -> list[str]:
    """The words of ``fromnoise train`` or ``fromnoise cluster`` that continue a run by its own recipe."""
    recipe, out = shown_path(run / "recipe.toml"), shown_path(run)
    if not is_clustering(run):
        return ["train", recipe, "--out", out]
    values = recipe_values(run)
    source = str(values.get("data", {}).get("source", "SPEC"))
    count = str(values.get("clustering", {}).get("count", "Q"))
    return ["cluster", source, "-q", count, "--recipe", recipe, "--out", out]
