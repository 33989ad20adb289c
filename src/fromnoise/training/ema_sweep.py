"""The average of any width of a run as its model, and the width whose samples are nearest to held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fromnoise import checkpoint
from fromnoise.checkpoint import Loaded
from fromnoise.config.recipe_data import open_data
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.features.select import select_features
from fromnoise.evaluation.metrics.kid import KernelReference
from fromnoise.model import AutoencoderModel, Model
from fromnoise.pipeline import collect, sample_steps
from fromnoise.training.ema_snapshots import Snapshots
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

WIDTHS = (0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2)
"""Widths of a sweep, unless others are given."""
_REFERENCE = 5000  # held-out images
_BATCH = 128


def averaged_model(run: str | Path, width: float) -> tuple[Loaded[Model | AutoencoderModel], float]:
    """The model of a run with the average of a relative width, from its snapshots.

    Args:
        run: the run directory.
        width: in (0, 0.28).

    Returns:
        The model, on the CPU, and the distance of its profile from the wanted one, as of ``reconstruction_weights``.

    Raises:
        UserError: there is no such run, it has no snapshots, or they are not of this network.
        ValueError: the width is out of range.
    """
    snapshots = Snapshots(run)
    loaded = checkpoint.load_trainable(run)
    average, missed = snapshots.average(width)
    module = loaded.model.module
    state = module.state_dict()
    if not average.keys() <= state.keys() or any(state[name].shape != t.shape for name, t in average.items()):
        raise UserError(f"the snapshots in {run} are not of its network: delete them")
    module.load_state_dict(state | average)
    model: Any = loaded.model.with_module(module.eval())
    return Loaded(model, {"step": snapshots.step, "ema_width": width}, loaded.path), missed


@dataclass(frozen=True)
class SweepRow:
    """A width of a sweep.

    Attributes:
        width: relative; None is the average of model.safetensors.
        distance: kernel distance of its samples to held-out images.
        missed: distance of the profile from the wanted one.
    """

    width: float | None
    distance: Estimate
    missed: float


def sweep(
    run: str | Path,
    compute: ComputeConfig,
    widths: tuple[float, ...] = WIDTHS,
    *,
    count: int = 1000,
    features: str | None = None,
    data: str | None = None,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> Iterator[SweepRow]:
    """Sample with averages of several widths, from the same noise, and compare with held-out images.

    Args:
        run: the run directory.
        compute: device and precision.
        widths: relative widths, each in (0, 0.28).
        count: samples of each.
        features: as of ``select_features``.
        data: SPEC of the images; None is that of the recipe.
        seed: of the samples.
        log: receives messages.

    Yields:
        First the row of model.safetensors, then one for each width.

    Raises:
        UserError: as ``averaged_model``, or the run is that of an autoencoder.
    """
    kept = checkpoint.load_model(run)
    recipe = kept.model.recipe
    Snapshots(run)
    values = {"source": data or recipe.data.source}
    images = open_data(recipe.model_copy(update={"data": recipe.data.model_copy(update=values)}), log)
    extractor = select_features(features, images, compute=compute, log=log)
    held_out = images.held_out
    chosen = torch.arange(min(_REFERENCE, len(held_out)))
    reference = KernelReference(torch.cat([extractor.features(held_out.get(rows)) for rows in chosen.split(_BATCH)]))
    ids = torch.arange(count)

    def distance(model: Model) -> Estimate:
        compute.to_device(model.module)
        classes = model.dataset_info.class_names
        labels = ids % len(classes) if classes is not None else model.default_labels(ids, seed, stratified=False)
        steps = sample_steps(model, recipe.sample, compute, ids=ids, seed=seed, label=labels, batch=_BATCH)
        found = extractor.features(collect(steps, finite=False).images)
        return reference.distance(found, labels if classes is not None else None)

    yield SweepRow(None, distance(kept.model), 0.0)
    for width in widths:
        loaded, missed = averaged_model(run, width)
        assert isinstance(loaded.model, Model)
        yield SweepRow(width, distance(loaded.model), missed)
