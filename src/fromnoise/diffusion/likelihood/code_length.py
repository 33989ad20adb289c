"""Code length of images under a model, in nats: the variational bound, whole or estimated from some of its steps.

The bound of an image is L_T plus the sum over k = 1..T of L_{k-1}, each an expectation over the noise at k.
``ELBO.all_terms`` evaluates every step with one noise sample; ``ELBO.sampled_terms`` evaluates a random choice of steps
and weights them by the inverse of their probability, which is unbiased (Nichol and Dhariwal 2021, eq. 18).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.likelihood import elbo
from fromnoise.diffusion.likelihood.conditions import log_determinant, whiten
from fromnoise.diffusion.likelihood.ode import ProbabilityFlow
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import Schedule

CONTINUOUS_STEPS = 1000
"""T of the bound for a schedule in continuous time."""


def geometric_bins(steps: int, bins: int) -> Tensor:
    """First steps of bins of 1..T whose width grows geometrically with k.

    Args:
        steps: T.
        bins: how many; the result may have fewer.

    Returns:
        int64, at most ``bins`` + 1 numbers, rising; the last bin is T alone.
    """
    return torch.unique((steps ** torch.linspace(0, 1, bins + 1, dtype=torch.float64)).round().long())


def bin_index(k: Tensor, starts: Tensor) -> Tensor:
    """The bin of each step, int64, shaped as ``k``; ``starts`` as of ``geometric_bins``."""
    return torch.bucketize(k, starts, right=True) - 1


@dataclass(frozen=True)
class StepProposal:
    """The distribution from which the steps of an estimate are sampled.

    Attributes:
        probability: of k = 1..T, float64 (T,), summing to 1; a step of probability 0 is left out of the bound.
    """

    probability: Tensor

    @staticmethod
    def uniform(steps: int) -> StepProposal:
        """1/T for each step."""
        return StepProposal(torch.full((steps,), 1 / steps, dtype=torch.float64))

    @staticmethod
    def importance(pilot: SampledTerms, steps: int, bins: int = 32, uniform_fraction: float = 0.1) -> StepProposal:
        """Probabilities in proportion to sqrt(E[L^2]) of a pilot estimate (Nichol and Dhariwal 2021, eq. 18).

        Args:
            pilot: a first, small estimate.
            steps: T.
            bins: geometric bins of k in which L^2 is averaged; the terms change fastest near k = 1.
            uniform_fraction: of the probability, spread over all steps, so that none has probability 0.

        If all terms of the pilot are 0, every step has the same probability.
        """
        starts = geometric_bins(steps, bins)
        total, count = (torch.zeros(len(starts), dtype=torch.float64) for _ in range(2))
        index = bin_index(pilot.k.flatten(), starts)
        total.index_add_(0, index, pilot.nats.flatten() ** 2)
        count.index_add_(0, index, torch.ones_like(index, dtype=torch.float64))
        root = (total / count).sqrt()
        root = torch.where(count > 0, root, root[count > 0].mean())[bin_index(torch.arange(1, steps + 1), starts)]
        if not root.sum() > 0:  # the conditions of a new network make no difference: all terms are 0
            return StepProposal.uniform(steps)
        return StepProposal((1 - uniform_fraction) * root / root.sum() + uniform_fraction / steps)

    def restricted(self, steps: Tensor) -> StepProposal:
        """The distribution given that k is one of ``steps``, a mask over k = 1..T, bool (T,)."""
        kept = torch.where(steps, self.probability, 0.0)
        return StepProposal(kept / kept.sum())

    def sample(self, u: Tensor, count: int) -> Tensor:
        """Stratified samples of k.

        Args:
            u: uniform random numbers in [0, 1), float64 (B,).
            count: steps for each number, one in each of ``count`` strata of equal probability.

        Returns:
            int64 (B, count).
        """
        points = (u[:, None] + torch.arange(count, dtype=torch.float64)) / count
        cdf = self.probability.cumsum(0)
        return torch.searchsorted(cdf, points * cdf[-1], right=True).clamp(max=int(self.probability.nonzero()[-1])) + 1


@dataclass(frozen=True)
class SampledTerms:
    """An estimate of the bound from S sampled steps.

    Attributes:
        k: the steps, int64 (B, S).
        nats: their terms, float64 (B, S).
        weight: 1/(S probability), float64 (B, S): the mean of ``prior`` + sum of weight * nats is the bound.
        prior: L_T, float64 (B,).
    """

    k: Tensor
    nats: Tensor
    weight: Tensor
    prior: Tensor

    @property
    def total(self) -> Tensor:
        """The estimated bound of each image in nats, float64 (B,)."""
        return self.prior + (self.weight * self.nats).sum(1)


@dataclass(frozen=True)
class StepTerm:
    """One term of the bound.

    Attributes:
        k: the step.
        nats: L_{k-1}, float64 (B,).
        prediction: of the model at k.
        squared_error: mean of (x_0 - x0_hat)^2 over the dimensions, float64 (B,).
    """

    k: int
    nats: Tensor
    prediction: Prediction
    squared_error: Tensor


@dataclass(frozen=True)
class ELBO:
    """The variational bound of a model: the code length of an image under the model, in nats.

    Attributes:
        denoise: the model, with the clipping that it is sampled with.
        schedule: of the noise.
        f: variance of the reverse steps, as of ``posterior_variance``; None is the learned one.
        offset: strength of the offset noise with which the model was trained.
        decoder: of x_0 at the first step: ``elbo.decoder_nll``, or ``elbo.density_nll`` for a continuous x_0.
    """

    denoise: Denoise
    schedule: Schedule
    f: float | None = 0.0
    offset: float = 0.0
    decoder: Callable[[Tensor, Tensor, Tensor], Tensor] = elbo.decoder_nll

    @property
    def steps(self) -> int:
        """T: that of the schedule, or ``CONTINUOUS_STEPS``."""
        return self.schedule.steps or CONTINUOUS_STEPS

    def prior(self, x0: Tensor) -> Tensor:
        """L_T of images (B, C, H, W), float64 (B,)."""
        x0 = _to_double(x0)
        return elbo.prior_kl(x0, self.schedule.at(1.0, like=x0), self.offset).cpu().double()

    def term_at(self, x0: Tensor, k: Tensor, eps: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Prediction]:
        """L_{k-1} of each image at a step of its own.

        Args:
            x0: clean images (B, C, H, W).
            k: steps (B,).
            eps: noise, shaped as ``x0``.
            cond: as of ``Denoiser.forward``.

        Returns:
            Nats, float64 (B,), and the model's prediction at k.

        Raises:
            ValueError: as ``elbo.term``.
        """
        t = k.to("cpu", torch.float64) / self.steps
        level = self.schedule.at(t, like=x0)
        prediction = self.denoise(level.noisy(x0, eps), level, cond, None)
        wide = _to_double(x0)  # neighbouring levels differ by little: float32 would lose the difference
        wide_prediction = Prediction(
            prediction.x0.to(wide.dtype),
            prediction.variance_fraction.to(wide.dtype) if prediction.variance_fraction is not None else None,
        )
        wide_level = self.schedule.at(t, like=wide)
        nats = elbo.term(
            self.schedule, self.steps, wide, wide_prediction, wide_level, self.f, self.offset, self.decoder
        )
        return nats.cpu().double(), prediction

    def all_terms(self, x0: Tensor, noise: Noise, cond: Tensor | None = None) -> Iterator[StepTerm]:
        """All terms but L_T, from k = T down to 1, one evaluation each.

        Args:
            x0: clean images (B, C, H, W).
            noise: the noise of image i at k depends on (seed, i, k) alone.
            cond: as of ``Denoiser.forward``.
        """
        for k in range(self.steps, 0, -1):
            eps = self._eps(noise, x0, k)
            nats, prediction = self.term_at(x0, torch.full((len(x0),), k), eps, cond)
            error = (_to_double(x0) - prediction.x0) ** 2
            yield StepTerm(k, nats, prediction, error.flatten(1).mean(1).cpu().double())

    def sampled_terms(
        self, x0: Tensor, noise: Noise, proposal: StepProposal, count: int, cond: Tensor | None = None
    ) -> SampledTerms:
        """An unbiased estimate of the bound from some steps of each image.

        Args:
            x0: clean images (B, C, H, W).
            noise: steps and noise of image i depend on (seed, i) alone.
            proposal: the distribution of the steps.
            count: steps an image, one evaluation each.
            cond: as of ``Denoiser.forward``.
        """
        k = proposal.sample(noise.uniform(Stream.BOUND), count)
        nats = []
        for j in range(count):
            eps = self._eps(noise, x0, j + 1)
            nats.append(self.term_at(x0, k[:, j], eps, cond)[0])
        return SampledTerms(k, torch.stack(nats, 1), 1 / (count * proposal.probability[k - 1]), self.prior(x0))

    def flow_nll(
        self, flow: ProbabilityFlow, x0: Tensor, noise: Noise, probes: int = 1, cond: Tensor | None = None
    ) -> Tensor:
        """The bound with the likelihood of the probability flow in place of the steps k > 1.

        -log p(x_0) <= E_q(x_1 | x_0)[log q(x_1 | x_0) - log p_flow(x_1)] + L_0

        Both bounds share the decoder L_0, so that their difference is that of steps and flow. The noise of x_1 is a
        dequantization on which the network was trained.

        Args:
            flow: of the same model, from its first step on.
            x0: clean images (B, C, H, W).
            noise: of x_1 and of the trace estimator; image i's depends on (seed, i) alone.
            probes: as of ``ProbabilityFlow.log_prob``.
            cond: as of ``Denoiser.forward``.

        Returns:
            Nats, float64 (B,).

        Source: Zheng et al. 2023, "Improved techniques for maximum likelihood estimation for diffusion ODEs", sec. 4.2.
        """
        eps = self._eps(noise, x0, 0)
        first = self.schedule.at(1 / self.steps, like=x0)
        log_p = flow.log_prob(first.noisy(x0, eps), noise, probes, cond).cpu().double()
        white = whiten(_to_double(eps), self.offset)
        log_q = (-0.5 * (white**2 + math.log(2 * math.pi)) - first.sigma.double().log()).flatten(1).sum(1)
        log_q = log_q - 0.5 * log_determinant(eps.shape, self.offset)
        decoder, _ = self.term_at(x0, torch.ones(len(x0)), eps, cond)
        return log_q.cpu() - log_p + decoder

    def _eps(self, noise: Noise, x0: Tensor, part: int) -> Tensor:
        """Noise of the forward process, shaped as ``x0``."""
        return replace(noise, offset=self.offset).image(tuple(x0.shape[1:]), Stream.BOUND, part, like=x0)


def _to_double(x: Tensor) -> Tensor:
    """``x`` in float64, where the device has it."""
    return x if x.device.type == "mps" else x.double()
