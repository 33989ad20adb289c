"""The bounds of a model's clusters on images, batch after batch: the costly part of an E-step."""

from __future__ import annotations

from collections.abc import Iterator
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
        ids = torch.linspace(0, len(images) - 1, min(_PILOT_IMAGES, len(images))).long()
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

    def _x0(self, images: Images, ids: Tensor) -> Tensor:
        return to_float(images.get(ids).to(self.compute.device)).contiguous(memory_format=self.compute.memory_format)
