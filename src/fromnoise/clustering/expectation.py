"""The bounds of a model's clusters on images, batch after batch: the costly part of an E-step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.data import Images, to_float
from fromnoise.diffusion.likelihood import e_step
from fromnoise.diffusion.likelihood.code_length import ELBO, StepProposal
from fromnoise.diffusion.likelihood.e_step import ComponentBounds, EStepConfig
from fromnoise.diffusion.rng import Noise
from fromnoise.evaluation.likelihood import LikelihoodEvaluator
from fromnoise.model import Model
from fromnoise.utils.device import ComputeConfig

_NETWORK_BATCH = 640  # images times clusters in one evaluation of the network
_PILOT_IMAGES, _PILOT_STEPS = 32, 24
BOUND_IMAGES = 500
"""Images of an E-step whose cross-fitted bound is estimated, at most."""
BOUND_STEPS = 8
"""Diffusion steps of that bound for each cluster of an image, each with a noise and its negative."""


def evenly_spaced(n: int, limit: int) -> Tensor:
    """Numbers of at most ``limit`` of n images, int64."""
    return torch.linspace(0, n - 1, min(limit, n)).long()


@dataclass(frozen=True)
class EStep:
    """Evaluates the bounds L_c of a model that is conditioned on clusters.

    Attributes:
        elbo: the bound of the model.
        clusters: number of clusters, Q.
        compute: device and precision.
        seed: of the noise.
    """

    elbo: ELBO
    clusters: int
    compute: ComputeConfig
    seed: int

    @staticmethod
    def from_model(model: Model, clusters: int, compute: ComputeConfig, seed: int) -> EStep:
        """The E-step of a model whose classes are the clusters."""
        return EStep(LikelihoodEvaluator(model, compute, seed).elbo(), clusters, compute, seed)

    def uniform_proposal(self, min_time: float) -> StepProposal:
        """The uniform proposal over the steps at times t > ``min_time``."""
        steps = self.elbo.steps
        return StepProposal.uniform(steps).restricted(torch.arange(1, steps + 1) > min_time * steps)

    def pilot_proposal(self, images: Images, min_time: float) -> StepProposal:
        """A proposal that prefers steps at which the clusters differ, from a pilot estimate with other noise.

        Args:
            images: a few of them, evenly spaced, are used.
            min_time: steps up to this time are left out of every L_c.
        """
        ids = evenly_spaced(len(images), _PILOT_IMAGES)
        with torch.inference_mode(), self.compute.autocast():
            return e_step.difference_proposal(
                self.elbo,
                self._x0(images, ids),
                Noise(self.seed + 1, ids),
                self.clusters,
                self.uniform_proposal(min_time),
                _PILOT_STEPS,
            )

    def component_bounds(
        self,
        images: Images,
        proposal: StepProposal,
        config: EStepConfig,
        first: int = 0,
        offsets: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, ComponentBounds]]:
        """Estimate L_c of every cluster for images.

        Args:
            images: images to cluster.
            proposal: of the diffusion steps.
            config: number of diffusion steps.
            first: number of the first image; those before it are skipped.
            offsets: as in ``e_step.component_bounds``, of all images, (N, Q).

        Yields:
            Numbers of the images of a batch, int64 (B,), and their bounds.
        """
        if first == len(images):
            return  # an E-step that was stopped after its last batch; ``split`` would give an empty one
        for ids in torch.arange(first, len(images)).split(max(1, _NETWORK_BATCH // self.clusters)):
            with torch.inference_mode(), self.compute.autocast():
                bounds = e_step.component_bounds(
                    self.elbo,
                    self._x0(images, ids),
                    Noise(self.seed, ids),
                    self.clusters,
                    proposal,
                    config,
                    offsets[ids] if offsets is not None else None,
                )
            yield ids, bounds

    def cross_fitted_elbo(
        self, images: Images, ids: Tensor, q: Sequence[Tensor], weights: Tensor, proposal: StepProposal, steps: int
    ) -> Iterator[Tensor]:
        """F of given responsibilities by the model alone, nats, from steps and noise that ``component_bounds`` lacks.

        Unbiased, and its expectation a lower bound on log p, as said of ``e_step.independent_bounds``.

        Args:
            images: the data set.
            ids: numbers of the images to evaluate, int64 (n,).
            q: responsibilities of these images, (n, Q) each; clusters of probability 0 in all of them are not
                evaluated, and all are evaluated with the same noise.
            weights: mixture weights, (Q,).
            proposal: of the diffusion steps.
            steps: number of diffusion steps for each cluster.

        Yields:
            F of a batch of the images, float64 (len(q), B).
        """
        places = torch.arange(len(ids))
        for place in places.split(max(1, _NETWORK_BATCH // self.clusters)):
            part, noise = [each[place] for each in q], Noise(self.seed, ids[place])
            chosen = torch.stack(part).amax(0) > 0
            with torch.inference_mode(), self.compute.autocast():
                x0 = self._x0(images, ids[place])
                nats = e_step.independent_bounds(self.elbo, x0, noise, chosen, proposal, steps)
            yield torch.stack([e_step.mixture_elbo(each, nats, weights) for each in part])

    def _x0(self, images: Images, ids: Tensor) -> Tensor:
        return to_float(images.get(ids).to(self.compute.device)).contiguous(memory_format=self.compute.memory_format)
