"""Whose are images that a finished model never saw? With classes in place of clusters: the diffusion classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fromnoise.checkpoint import LoadedModel
from fromnoise.clustering.em import EStep
from fromnoise.clustering.results import Assignments
from fromnoise.data import Data, MemoryImages, shuffled_indices
from fromnoise.diffusion.likelihood import e_step
from fromnoise.diffusion.likelihood.code_length import StepProposal
from fromnoise.diffusion.likelihood.e_step import EStepConfig
from fromnoise.model import Model
from fromnoise.utils.device import ComputeConfig


def search_of(model: Model, first: int | None, then: int | None, keep: int | None) -> EStepConfig:
    """How much each image is looked at: as its recipe says, but for what is given."""
    config = model.recipe.clustering
    return EStepConfig(
        config.first if first is None else first,
        config.then if then is None else then,
        config.keep if keep is None else keep,
    )


def assign(
    loaded: LoadedModel,
    data: Data,
    compute: ComputeConfig,
    search: EStepConfig,
    limit: int | None,
    seed: int,
    on_progress: Callable[[int], object] = lambda n: None,
) -> Assignments:
    """The posterior of images under a model that is told clusters or classes.

    All of them: those that ``data`` would learn from and, where both are parts of one split, those held out.

    Args:
        loaded: the model; where it was not sorted by EM, every class has the same share.
        data: in the model's shape.
        compute: where.
        search: how much each image is looked at.
        limit: so many of the images, drawn by ``seed``; None for all.
        seed: of the noise too.
        tick: told how many images more are done.
    """
    model = loaded.model
    names = model.dataset_info.class_names or ()
    parts = [data.train]
    if not set(data.train.rows.tolist()) & set(data.held_out.rows.tolist()):
        parts.append(data.held_out)
    rows = torch.cat([part.rows for part in parts])
    labels = torch.cat([part.labels for part in parts if part.labels is not None]) if data.class_names else None
    pixels = torch.cat([part.get(torch.arange(len(part))) for part in parts])
    chosen = rows.argsort()
    if limit is not None and limit < len(chosen):
        chosen = chosen[shuffled_indices(len(chosen), seed, range(limit)).sort().values]
    images = MemoryImages(pixels, rows=chosen)
    sorter = EStep.of(model, len(names), compute, seed)
    mixture = loaded.progress.get("mixture")
    if mixture and mixture["plan"]:
        plan = StepProposal(torch.tensor(mixture["plan"], dtype=torch.float64))
    else:
        plan = sorter.plan(images, model.recipe.clustering.finest)
    even = [1 / len(names)] * len(names)
    shares = torch.tensor(mixture["shares"] if mixture else even, dtype=torch.float64)
    q = torch.empty(len(images), len(names), dtype=torch.float64)
    for ids, found in sorter.compare(images, plan, search):
        q[ids] = e_step.posterior(found.nats, shares, model.recipe.clustering.temperature_last if mixture else 1.0)
        on_progress(len(ids))
    return Assignments(rows[chosen], q, names, labels[chosen] if labels is not None else None, data.class_names)
