"""Negative log-likelihood of images under a model, in bits/dim: the variational bound and the probability-flow ODE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.data import Images, shuffled_indices, to_float
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.likelihood.code_length import ELBO, SampledTerms, StepProposal, bin_index, geometric_bins
from fromnoise.diffusion.likelihood.conditions import SelfConditioned
from fromnoise.diffusion.likelihood.elbo import decoder_nll, density_nll
from fromnoise.diffusion.likelihood.ode import ODESolver, ProbabilityFlow
from fromnoise.diffusion.rng import Noise
from fromnoise.evaluation.autoencoder_bits import autoencoder_nats, sampled_latents
from fromnoise.evaluation.likelihood_results import BoundResult
from fromnoise.evaluation.model_source import has_pseudo_labels
from fromnoise.model import AutoencoderModel, Model
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

OnProgress = Callable[[int], object]
"""Called with the number of further images done."""

_PILOT_IMAGES = 16  # from which the proposal of the steps is estimated
_PILOT_STEPS = 48
_BINS = 40

T = TypeVar("T")


def random_subset(
    images: Images, model: Model | AutoencoderModel, count: int, seed: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Random images of a data set, and the condition of a model for each.

    Args:
        images: the data set.
        model: conditional or not.
        count: number of images, at most.
        seed: of the choice.

    Returns:
        uint8 (N, C, H, W); and classes or attributes, the null condition if they are unknown, or None if the model is
        unconditional.
    """
    chosen = shuffled_indices(len(images), seed, range(min(count, len(images))))
    pixels, labels = images.get(chosen), images.labels
    if not model.dataset_info.is_conditional:
        return pixels, None
    known = labels is not None and labels.is_floating_point() == (model.dataset_info.attributes is not None)
    return pixels, labels[chosen] if labels is not None and known else conditioning_for(
        model.dataset_info, None, chosen
    )


@dataclass(frozen=True)
class LikelihoodEvaluator:
    """Measures negative log-likelihoods under a model.

    Attributes:
        model: on ``compute.device``, in eval mode.
        compute: device and precision; use single precision, since the trace of the flow amplifies rounding.
        seed: of the noise; the noise of image i depends on (seed, i).
        batch: images per batch.
        config: variance and clipping of the reverse process; None for those of the model's recipe.
    """

    model: Model
    compute: ComputeConfig
    seed: int = 0
    batch: int = 64
    config: SamplingConfig | None = None

    def __post_init__(self) -> None:
        """Check the model.

        Raises:
            UserError: it was distilled.
        """
        self.model.require_denoiser("a likelihood")

    def elbo(self) -> ELBO:
        """The variational bound of the reverse process without guidance; x_0 is clipped if it is when sampling."""
        config = (self.config or self.model.recipe.sample).model_copy(update={"guidance": 1.0})
        denoise, offset = self._denoise(self.model.guided(config)), self.model.recipe.loss.offset_noise
        decoder = decoder_nll if self.model.latent_space is None else density_nll
        return ELBO(denoise, self.model.schedule, self.model.variance(config), offset, decoder)

    def _denoise(self, denoise: Denoise) -> Denoise:
        return SelfConditioned(denoise) if getattr(self.model.denoiser, "self_conditioning", False) else denoise

    def description(self) -> list[str]:
        """What is measured of this model, a line for each thing that differs from a plain one."""
        recipe, lines = self.model.recipe, []
        if (self.config or recipe.sample).clip:
            lines.append("the bound clips x_0 as sampling does; the flow is never clipped")
        if recipe.loss.offset_noise:
            lines.append(f"offset noise of strength {recipe.loss.offset_noise:g}, as in training and sampling")
        if recipe.loss.self_conditioning:
            lines.append(
                "conditioned on its own estimate at the same noise level, by two evaluations; sampling conditions on "
                "that of the step before"
            )
        if has_pseudo_labels(self.model):
            lines.append(
                "an image is coded as its pseudo-label k, -log2 p(k), and the image given k: an upper bound on "
                "-log2 sum_k p(k) p(x | k)"
            )
        if self.model.latent_space is not None:
            lines.append(
                "joint bound of autoencoder and diffusion: -log2 p(x | z) of the decoder, and the KL divergence of "
                "q(z | x) from the diffusion model's p(z) by its bound"
            )
        return lines

    def condition(self, x0: Tensor, labels: Tensor | None) -> tuple[Tensor | None, Tensor | float]:
        """The condition of images, and the nats that it costs.

        Args:
            x0: images (B, C, H, W).
            labels: condition of each image, or None.

        Returns:
            ``labels``, or the pseudo-labels of a model that has them; and -log p(k), float64 (B,), or 0.
        """
        if labels is not None or not has_pseudo_labels(self.model):
            return labels, 0.0
        pseudo_labels = self.model.denoiser.pseudo_labels
        assigned = pseudo_labels.assign(x0)
        return assigned, -pseudo_labels.weights.double().clamp(min=1e-9).log()[assigned].cpu()

    def bound(
        self,
        pixels: Tensor,
        labels: Tensor | None,
        sampled_steps: int | None = 32,
        on_progress: OnProgress = lambda count: None,
    ) -> BoundResult:
        """The variational bound of images.

        Args:
            pixels: uint8 (N, C, H, W).
            labels: condition of each image, or None.
            sampled_steps: number of steps per image, sampled in proportion to their terms; None for all steps.
            on_progress: called after each batch.

        Raises:
            UserError: the model has a single step, or a learned variance and offset noise.
        """
        elbo = self.elbo()
        if elbo.f is None and elbo.offset:
            raise UserError(
                "a learned variance with offset noise has no bound: set sample.sampler.variance 0 in the recipe"
            )
        if elbo.steps < 2:
            raise UserError("a model with one step has no bound: train with --diffusion.schedule.steps 2 or more")
        if sampled_steps is None or sampled_steps >= elbo.steps:
            parts = self._by_batch(
                pixels, labels, lambda x0, noise, cond: _all_steps(elbo, x0, noise, cond), on_progress
            )
        else:
            proposal = self._proposal(elbo, pixels[:_PILOT_IMAGES], labels)
            parts = self._by_batch(
                pixels,
                labels,
                lambda x0, noise, cond: elbo.sampled_terms(x0, noise, proposal, sampled_steps, cond),
                on_progress,
            )
        k, nats, weight = (torch.cat([getattr(p, name) for p in parts]) for name in ("k", "nats", "weight"))
        each, prior = self._bits_per_nat * nats * weight, self._bits_per_nat * torch.cat([p.prior for p in parts])
        starts = geometric_bins(elbo.steps, _BINS)
        total = torch.zeros(len(starts), dtype=torch.float64).index_add_(
            0, bin_index(k.flatten(), starts), each.flatten()
        )
        ends = [*(starts[1:] - 1).tolist(), elbo.steps]
        by_step = [
            (low, high, float(bits) / len(pixels) / (high - low + 1))
            for low, high, bits in zip(starts.tolist(), ends, total, strict=True)
        ]
        label = self._label_bits(pixels, labels)
        joint = self._autoencoder_bits(pixels)
        return BoundResult(
            prior + each.sum(1) + label + sum(joint.values()),
            float(prior.mean()),
            by_step[0][2],
            by_step,
            float(label.mean()),
            {name: float(bits.mean()) for name, bits in joint.items()},
        )

    def _autoencoder_bits(self, pixels: Tensor) -> dict[str, Tensor]:
        """What the autoencoder of a model of latents adds to the bound of its latents, bits/dim, float64 (N,) each."""
        if self.model.latent_space is None:
            return {}
        parts = [
            autoencoder_nats(self.model.latent_space, self.compute, pixels[ids], Noise(self.seed, ids))
            for ids in torch.arange(len(pixels)).split(self.batch)
        ]
        return {name: self._bits_per_nat * torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _label_bits(self, pixels: Tensor, labels: Tensor | None) -> Tensor:
        """Bits/dim of the pseudo-labels, float64 (N,)."""
        parts = [self.condition(to_float(part.to(self.compute.device)), labels)[1] for part in pixels.split(self.batch)]
        nats = [torch.as_tensor(p).expand(len(part)) for p, part in zip(parts, pixels.split(self.batch), strict=True)]
        return self._bits_per_nat * torch.cat(nats).double()

    def flow(
        self,
        pixels: Tensor,
        labels: Tensor | None,
        solver: ODESolver,
        probes: int = 1,
        on_progress: OnProgress = lambda count: None,
    ) -> Tensor:
        """Negative log-likelihood by the probability-flow ODE, bits/dim of each image, (N,); see ``ELBO.flow_nll``.

        Args:
            pixels: uint8 (N, C, H, W).
            labels: as of ``bound``.
            solver: of the ODE.
            probes: random sign vectors that estimate each trace.
            on_progress: called after each batch.

        Raises:
            UserError: the solver failed.
        """
        elbo = self.elbo()
        flow = ProbabilityFlow(self._denoise(self.model.denoiser), self.model.schedule, solver, offset=elbo.offset)
        try:
            parts = self._by_batch(
                pixels, labels, lambda x0, noise, cond: elbo.flow_nll(flow, x0, noise, probes, cond), on_progress
            )
        except ArithmeticError as e:
            raise UserError(f"{e}: use a larger --tolerance") from None
        joint = self._autoencoder_bits(pixels)
        return self._bits_per_nat * torch.cat(parts) + self._label_bits(pixels, labels) + sum(joint.values())

    @property
    def _bits_per_nat(self) -> float:
        """Bits/dim per nat of an image."""
        return 1 / (math.log(2) * math.prod(self.model.dataset_info.shape))

    def _by_batch(
        self, pixels: Tensor, labels: Tensor | None, work: Callable[..., T], on_progress: OnProgress
    ) -> list[T]:
        """``work(x0, noise, cond)`` of each batch."""
        out = []
        for ids in torch.arange(len(pixels)).split(self.batch):
            x0 = to_float(pixels[ids].to(self.compute.device)).contiguous(memory_format=self.compute.memory_format)
            cond = labels[ids].to(self.compute.device) if labels is not None else None
            noise = Noise(self.seed, ids)
            with torch.no_grad(), self.compute.autocast():
                cond = self.condition(x0, cond)[0]
                if self.model.latent_space is not None:
                    x0, _ = sampled_latents(self.model.latent_space, x0, noise)
                out.append(work(x0, noise, cond))
            on_progress(len(ids))
        return out

    def _proposal(self, elbo: ELBO, pixels: Tensor, labels: Tensor | None) -> StepProposal:
        """The distribution of sampled steps, estimated from a few images with independent noise."""
        uniform = StepProposal.uniform(elbo.steps)
        pilot = LikelihoodEvaluator(self.model, self.compute, self.seed + 1, len(pixels))
        (terms,) = pilot._by_batch(
            pixels,
            labels,
            lambda x0, noise, cond: elbo.sampled_terms(x0, noise, uniform, min(_PILOT_STEPS, elbo.steps), cond),
            lambda count: None,
        )
        return StepProposal.importance(terms, elbo.steps)


def _all_steps(elbo: ELBO, x0: Tensor, noise: Noise, cond: Tensor | None) -> SampledTerms:
    """Every step once, with weight one."""
    terms = list(elbo.all_terms(x0, noise, cond))
    nats = torch.stack([term.nats for term in terms], 1)
    k = torch.tensor([term.k for term in terms]).expand(len(x0), -1)
    return SampledTerms(k, nats, torch.ones_like(nats), elbo.prior(x0))
