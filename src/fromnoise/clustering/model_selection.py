"""The number of clusters, chosen by the bound on held-out images."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.clustering.expectation import EStep
from fromnoise.clustering.fit import ClusteringResult
from fromnoise.data import Images, MemoryImages
from fromnoise.diffusion.likelihood.code_length import StepProposal
from fromnoise.diffusion.likelihood.e_step import EStepConfig, mixture_elbo, mixture_weights, responsibilities
from fromnoise.evaluation.estimate import Estimate

_IMAGES = 500  # held-out images, at most
_STEPS = 16  # diffusion steps of the bound, for every cluster


def mixture_bounds(
    e_step: EStep, images: Images, weights: Tensor, config: EStepConfig, proposal: StepProposal
) -> Tensor:
    """F of each image with its own responsibilities, by the model alone, nats, float64 (N,).

    Args:
        e_step: of a model whose classes are the clusters.
        images: any images.
        weights: mixture weights, (Q,).
        config: number of diffusion steps.
        proposal: of the diffusion steps.
    """
    out = torch.empty(len(images), dtype=torch.float64)
    for ids, bounds in e_step.component_bounds(images, proposal, config):
        out[ids] = mixture_elbo(responsibilities(bounds.nats, weights), bounds.nats, weights)
    return out


def held_out_bounds(result: ClusteringResult) -> Tensor:
    """F of held-out images, with the same diffusion steps and noise for every model, nats, float64 (N,)."""
    images = result.task.data.held_out
    ids = torch.linspace(0, len(images) - 1, min(_IMAGES, len(images))).long()
    clustering = result.model.recipe.clustering
    e_step = EStep.from_model(result.model, clustering.count, result.compute, result.model.recipe.train.seed)
    weights = mixture_weights(result.q, clustering.concentration)
    config, proposal = EStepConfig(_STEPS, 0, clustering.count), e_step.uniform_proposal(clustering.min_time)
    return mixture_bounds(e_step, MemoryImages(images.get(ids)), weights, config, proposal)


def select_count(bounds: dict[int, Tensor]) -> int:
    """The smallest number of clusters whose mean bound is within one standard error of the highest.

    Args:
        bounds: F of the same images for each number of clusters.
    """
    highest = max(bounds, key=lambda count: float(bounds[count].mean()))
    for count in sorted(bounds):
        deficit = Estimate.mean_of(bounds[highest] - bounds[count])
        if count == highest or deficit.value <= deficit.error:
            return count
    return highest
