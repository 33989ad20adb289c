"""What the form of a new run shows: the choices, the data as the model will see them, problems, and the cost."""

from __future__ import annotations

from typing import Any

from fromnoise import config, registry
from fromnoise.clustering import dry_run as clustering_dry_run
from fromnoise.config import BUDGETS, to_toml
from fromnoise.data import open_source, shuffled_indices
from fromnoise.evaluation.data_checks import CheckedData, check_data
from fromnoise.evaluation.doctor import examine_run
from fromnoise.training.dry_run import dry_run
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import one_line
from fromnoise.web.compute.sending import Send, pixels

_DRY_RUNS = {"train": dry_run, "cluster": clustering_dry_run.dry_run}
_SHOWN = 64
_MOST_CLASSES = 200


def choices(send: Send) -> None:
    """Send the recipes and the named data sets."""
    recipes = []
    for name in config.names():
        recipe = config.load(name)
        budget = next(b for b in BUDGETS if getattr(recipe.train, b) is not None)
        recipes.append(
            {
                "name": name,
                "about": recipe.about,
                "cost": recipe.cost or "not measured yet",
                "quality": recipe.quality or "not measured yet",
                "data": recipe.data.source,
                "budget": budget,
                "amount": getattr(recipe.train, budget),
            }
        )
    send("end", recipes=recipes, data=registry.names("dataset"))


def inspect(send: Send, task: str, recipe: str, overrides: dict[str, Any]) -> None:
    """Send what a training or a clustering would be: images, classes, problems of the data, time and memory."""

    def log(line: str) -> None:
        send("log", line=one_line(line))

    values = config.load(recipe, overrides)
    expected = _DRY_RUNS[task](values, select_device(), log)
    data = expected.data
    count = min(_SHOWN, len(data.train))
    images = data.train.get(shuffled_indices(len(data.train), values.train.seed, range(count)))
    names = list(data.class_names or ())
    send("data", pixels(images), count=count, shape=list(data.shape), classes=names[:_MOST_CLASSES], all=len(names))
    send("cost", lines=list(expected.lines), seconds=expected.forecast.seconds)
    source = open_source(values.data.source or "")
    findings = [{"problem": f.problem, "remedy": f.remedy} for f in check_data(CheckedData(source, data))]
    send("findings", findings=findings)
    send("end", recipe=to_toml(expected.recipe))


def doctor(send: Send, run: str) -> None:
    """Send the problems of a run and of its data, as ``fromnoise doctor RUN -n 0``."""

    def log(line: str) -> None:
        send("log", line=one_line(line))

    findings, _ = examine_run(run, select_device(), 0, log)
    send("end", findings=[{"problem": f.problem, "remedy": f.remedy} for f in findings])
