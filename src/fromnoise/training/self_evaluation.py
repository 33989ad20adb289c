"""A distance to the data measured now and then while a run trains, and the weights that had the least of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from fromnoise import checkpoint
from fromnoise.config import SamplingConfig
from fromnoise.data import shuffled_indices
from fromnoise.evaluation.features.select import select_features
from fromnoise.evaluation.metrics.frechet import jackknifed_frechet
from fromnoise.evaluation.metrics.kid import KernelReference
from fromnoise.evaluation.statistics import Moments, split_moments
from fromnoise.model import Model
from fromnoise.pipeline import collect, sample_steps
from fromnoise.run_dir import RunDir
from fromnoise.training.trainer import Trainer
from fromnoise.utils.errors import UserError

_REFERENCE = 10_000  # training images compared with
_KERNEL = 2_000  # of them for the kernel distance
_BATCH = 200


class SelfEvaluation:
    """Judges the averaged weights of a trainer."""

    def __init__(self, trainer: Trainer, folder: RunDir, log: Callable[[str], None]) -> None:
        """Look at the training images once.

        Args:
            trainer: whose model draws.
            folder: where best.safetensors goes.
            say: takes lines for people.

        Raises:
            UserError: the features cannot be had.
        """
        self._trainer, self._how = trainer, trainer.model.recipe.evaluation
        name = None if self._how.features == "auto" else self._how.features
        self._extractor = select_features(name, trainer.data, compute=trainer.compute, log=log)
        train = trainer.data.train
        places = shuffled_indices(len(train), 0, range(min(_REFERENCE, len(train)))).split(_BATCH)
        seen = [self._extractor.features(train.get(part)) for part in places]
        self._moments = reduce(Moments.__add__, map(Moments.of, seen))
        self._kernel = KernelReference(torch.cat(seen)[:_KERNEL])
        self.best = folder.path / "best.safetensors"
        self._least = _least(self.best)

    def due(self, before: float, now: float) -> bool:
        """Whether the share of the budget has passed a point at which to judge."""
        return int(before * self._how.times) != int(now * self._how.times)

    def __call__(self) -> dict[str, Any]:
        """Draw, measure, keep the weights if none were better; the numbers for reports.jsonl."""
        trainer = self._trainer
        trainer.refresh()
        own = trainer.model
        model = Model(own.recipe, own.dataset_info, trainer.averaged.eval())
        steps = min(self._how.steps, own.schedule.steps or self._how.steps)
        config = SamplingConfig(sampler="ddim", steps=steps, clip=own.recipe.sample.clip)
        label = "all" if own.dataset_info.class_names is not None else None
        ids = torch.arange(self._how.samples)
        images = collect(sample_steps(model, config, trainer.compute, ids=ids, label=label, batch=_BATCH)).images
        features = self._extractor.features(images)
        distance = jackknifed_frechet(split_moments(features), self._moments)
        kernel = self._kernel.distance(features)
        found = {"features": self._extractor.name, "frechet": distance.json(), "kernel": kernel.json()}
        if distance.value < self._least:
            self._least = distance.value
            progress = {"step": trainer.progress.step, "evaluation": found}
            checkpoint.save_model(self.best, own, trainer.weights(), progress)
        return found


def _least(path: Path) -> float:
    """The distance of the best weights so far; endless if there are none."""
    if not path.exists():
        return float("inf")
    try:
        return float(checkpoint.read(path)[1]["progress"]["evaluation"]["frechet"]["value"])
    except UserError:
        return float("inf")
