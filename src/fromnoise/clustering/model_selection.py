"""How many clusters: by the bound on images that were not learned from."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.clustering.em import EStep
from fromnoise.clustering.fit import ClusteringResult
from fromnoise.data import Images, MemoryImages
from fromnoise.diffusion.likelihood import e_step
from fromnoise.diffusion.likelihood.code_length import StepProposal
from fromnoise.diffusion.likelihood.e_step import EStepConfig
from fromnoise.evaluation.estimate import Estimate

_IMAGES = 500  # held out, at most
_STEPS = 16  # of the bound: the same for every model


def bounds(sorter: EStep, images: Images, shares: Tensor, search: EStepConfig, plan: StepProposal) -> Tensor:
    """F of each image under its posterior, nats, float64 (N,).

    Args:
        sorter: of a model that is told clusters.
        images: any.
        shares: of the clusters.
        search: how much each image is looked at.
        plan: where.
    """
    out = torch.empty(len(images), dtype=torch.float64)
    for ids, found in sorter.compare(images, plan, search):
        out[ids] = e_step.evidence(e_step.posterior(found.nats, shares), found.nats, shares)
    return out


def held_out(found: ClusteringResult) -> Tensor:
    """F of held-out images, with the steps and the noise that every model is measured by, float64 (N,)."""
    images = found.task.data.held_out
    ids = torch.linspace(0, len(images) - 1, min(_IMAGES, len(images))).long()
    config = found.model.recipe.clustering
    sorter = EStep.of(found.model, config.count, found.compute, found.model.recipe.train.seed)
    steps = sorter.code.steps
    plan = StepProposal.uniform(steps).restricted(torch.arange(1, steps + 1) > config.finest * steps)
    shares = e_step.shares(found.q, config.concentration)
    return bounds(sorter, MemoryImages(images.get(ids)), shares, EStepConfig(_STEPS, 0, config.count), plan)


def best(tried: dict[int, Tensor]) -> int:
    """The least number of clusters whose bound is not below the best by more than its error.

    Args:
        tried: F of the same images by number of clusters.
    """
    top = max(tried, key=lambda count: float(tried[count].mean()))
    for count in sorted(tried):
        behind = Estimate.mean_of(tried[top] - tried[count])
        if count == top or behind.value <= behind.error:
            return count
    return top
