"""The number of clusters, chosen by the bound on held-out images."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.clustering.expectation import EStep, evenly_spaced
from fromnoise.clustering.fit import ClusteringResult
from fromnoise.data import Images, MemoryImages
from fromnoise.diffusion.likelihood.code_length import StepProposal
from fromnoise.diffusion.likelihood.e_step import EStepConfig, mixture_elbo, mixture_weights, responsibilities, truncate
from fromnoise.evaluation.estimate import Estimate

_IMAGES = 500  # held-out images, at most
_STEPS = 16  # diffusion steps of the responsibilities, for every cluster, and again of their bound


def mixture_bounds(e_step: EStep, images: Images, weights: Tensor, proposal: StepProposal, steps: int) -> Tensor:
    """An estimate of max_q F of each image by the model alone whose bias is of third order, nats, float64 (N,).

    With errors d of the estimated L_c and H = diag(q) - q q^T, F of the estimated q is to second order

        d^T H d / 2 too high by the estimates that gave q,    d^T H d / 2 too low by independent ones.

    Both errors grow with the number of clusters: the first favours too many, the second (a bound in expectation,
    ``e_step.independent_bounds``) too few. The mean of both is returned.

    Args:
        e_step: of a model whose classes are the clusters.
        images: any images.
        weights: mixture weights, (Q,).
        proposal: of the diffusion steps.
        steps: number of diffusion steps of each of the two sets of estimates.
    """
    config, ids = EStepConfig(steps, 0, e_step.clusters), torch.arange(len(images))
    nats = torch.cat([bounds.nats for _, bounds in e_step.component_bounds(images, proposal, config)])
    q = responsibilities(nats, weights)
    support = [truncate(q, e_step.clusters)]
    bound = torch.cat([f[0] for f in e_step.cross_fitted_elbo(images, ids, support, weights, proposal, steps)])
    return (mixture_elbo(q, nats, weights) + bound) / 2


def held_out_bounds(result: ClusteringResult) -> Tensor:
    """``mixture_bounds`` of held-out images, with the same steps and noise for every model, nats, float64 (N,)."""
    images = result.task.data.held_out
    ids = evenly_spaced(len(images), _IMAGES)
    clustering = result.model.recipe.clustering
    e_step = EStep.from_model(result.model, clustering.count, result.compute, result.model.recipe.train.seed)
    weights = mixture_weights(result.q, clustering.concentration)
    proposal = e_step.uniform_proposal(clustering.min_time)
    return mixture_bounds(e_step, MemoryImages(images.get(ids)), weights, proposal, _STEPS)


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
