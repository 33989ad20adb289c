"""Frechet and kernel distance of a run's samples during training, and the weights with the lowest distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from fromnoise import checkpoint
from fromnoise.config import SamplingConfig
from fromnoise.data import Data, shuffled_indices
from fromnoise.evaluation.features.select import preparation_seconds, select_features
from fromnoise.evaluation.metrics.frechet import frechet_error, jackknifed_frechet
from fromnoise.evaluation.metrics.kid import KernelReference
from fromnoise.evaluation.statistics import Moments, split_moments
from fromnoise.model import Model
from fromnoise.pipeline import collect, sample_steps
from fromnoise.run_dir import RunDir
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.stopping import check_stop, unless_stopped
from fromnoise.training.trainable import Trainable
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

_REFERENCE_COUNT = 10_000  # training images in the reference of the Frechet distance
_KERNEL_COUNT = 2_000  # training images in the reference of the kernel distance
_BATCH = 200


class SelfEvaluation:
    """Compares samples of the EMA weights of a training loop with its training images, and keeps the best weights."""

    def __init__(self, loop: TrainingLoop[Model], run_dir: RunDir, log: Callable[[str], None]) -> None:
        """Compute the features of the training images.

        Args:
            loop: its EMA weights are evaluated.
            run_dir: best.safetensors is written there.
            log: receives messages.

        Raises:
            UserError: the features are not available.
            Stopped: the run is asked to stop.
        """
        self._loop, self._config = loop, loop.model.recipe.evaluation
        name = None if self._config.features == "auto" else self._config.features
        self._extractor = select_features(
            name, loop.data, compute=loop.compute, log=log, on_step=lambda done, total: check_stop(loop.stop_requested)
        )
        train = loop.data.train
        batches = shuffled_indices(len(train), 0, range(reference_count(len(train)))).split(_BATCH)
        batches = unless_stopped(batches, loop.stop_requested)
        features = [self._extractor.features(train.get(indices)) for indices in batches]
        self._moments = reduce(Moments.__add__, map(Moments.of, features))
        self._kernel = KernelReference(torch.cat(features)[:_KERNEL_COUNT])
        self.best_file = run_dir.path / "best.safetensors"
        self._lowest_distance = _distance_of(self.best_file)

    def __call__(self) -> dict[str, Any]:
        """Sample, measure, and save the weights if the Frechet distance is the lowest so far.

        Classes and pseudo-labels are stratified, so the errors are those of stratified samples.

        Returns:
            ``features``, ``frechet`` and ``kernel``, for the key ``evaluation`` of reports.jsonl.

        Raises:
            Stopped: the run is asked to stop.
        """
        loop, config = self._loop, self._config
        model = loop.ema_model()
        steps = min(config.steps, model.schedule.steps or config.steps)
        sampling = SamplingConfig(sampler="ddim", steps=steps, clip=model.recipe.sample.clip)
        label = "all" if model.dataset_info.class_names is not None else None
        ids = torch.arange(config.samples)
        sampled = sample_steps(model, sampling, loop.compute, ids=ids, label=label, batch=_BATCH)
        images = collect(unless_stopped(sampled, loop.stop_requested), finite=False).images
        features, classes = self._extractor.features(images), model.dataset_info.class_names
        strata = ids % len(classes) if classes is not None else model.default_labels(ids, 0)  # as they were sampled
        frechet = jackknifed_frechet(split_moments(features), self._moments)
        frechet = replace(frechet, error=frechet_error(features, Moments.of(features), self._moments, strata))
        kernel = self._kernel.distance(features, strata)
        result = {"features": self._extractor.name, "frechet": frechet.json(), "kernel": kernel.json()}
        if model.denoiser.pseudo_labels is not None:
            result["pseudo_labels"] = "stratified"  # nearer than i.i.d. samples: not comparable with real images
        if frechet.value < self._lowest_distance:
            self._lowest_distance = frechet.value
            progress = {"step": loop.progress.step, "evaluation": result}
            checkpoint.save_model(self.best_file, loop.model, loop.ema_state_dict(), progress)
        return result


def reference_count(images: int) -> int:
    """Number of training images that samples are compared with."""
    return min(_REFERENCE_COUNT, images)


def features_seconds(model: Trainable, data: Data, compute: ComputeConfig) -> float:
    """Estimated duration of the features before the first evaluation; 0 if the recipe has no evaluations.

    Raises:
        UserError: the features are not available.
    """
    config = model.recipe.evaluation
    if not config.times:
        return 0.0
    name = None if config.features == "auto" else config.features
    return preparation_seconds(name, data, reference_count(len(data.train)), compute)


def _distance_of(path: Path) -> float:
    """The Frechet distance in a best.safetensors; infinity if there is no such file or it is damaged."""
    if not path.exists():
        return float("inf")
    try:
        return float(checkpoint.read(path)[1]["progress"]["evaluation"]["frechet"]["value"])
    except (UserError, KeyError, TypeError, ValueError):
        return float("inf")
