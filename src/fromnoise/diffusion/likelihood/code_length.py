"""A model's code length by its variational bound: every term, or a sample of the steps with its error.

The bound of an image is ``prior`` + the sum over k = 1..T of L_{k-1}, each an expectation over the noise at k. ``walk``
visits every step with one noise each; ``visits`` draws some of the steps and weighs them by their probability, without
bias (Nichol and Dhariwal 2021, eq. 18).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.likelihood import elbo
from fromnoise.diffusion.likelihood.ode import Flow
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import Schedule

CONTINUOUS_STEPS = 1000
"""T of the bound of a schedule that has no steps of its own."""


def geometric(steps: int, bins: int) -> Tensor:
    """First steps of bins of 1..T that grow with k, at most ``bins`` + 1 of them, int64; the last is T alone."""
    return torch.unique((steps ** torch.linspace(0, 1, bins + 1, dtype=torch.float64)).round().long())


def bin_of(k: Tensor, starts: Tensor) -> Tensor:
    """The bin of each step, shaped as ``k``."""
    return torch.bucketize(k, starts, right=True) - 1


@dataclass(frozen=True)
class StepProposal:
    """With which probability a step is visited.

    Attributes:
        probability: of k = 1..T, float64 (T,), adding to 1; a step of probability 0 is left out of the bound.
    """

    probability: Tensor

    @staticmethod
    def uniform(steps: int) -> StepProposal:
        """1/T each."""
        return StepProposal(torch.full((steps,), 1 / steps, dtype=torch.float64))

    @staticmethod
    def importance(pilot: SampledTerms, steps: int, bins: int = 32, even: float = 0.1) -> StepProposal:
        """In proportion to sqrt(E[L^2]) as a first, small estimate found it (Nichol and Dhariwal 2021, eq. 18).

        Args:
            pilot: the first estimate.
            steps: T.
            bins: geometric bins of k in which the square is averaged: the terms change fastest near k = 1.
            even: share that stays uniform, so that no step is left out.
        """
        starts = geometric(steps, bins)
        total, count = (torch.zeros(len(starts), dtype=torch.float64) for _ in range(2))
        where = bin_of(pilot.k.flatten(), starts)
        total.index_add_(0, where, pilot.nats.flatten() ** 2)
        count.index_add_(0, where, torch.ones_like(where, dtype=torch.float64))
        root = (total / count).sqrt()
        root = torch.where(count > 0, root, root[count > 0].mean())[bin_of(torch.arange(1, steps + 1), starts)]
        return StepProposal((1 - even) * root / root.sum() + even / steps)

    def only(self, steps: Tensor) -> StepProposal:
        """The same without the other steps; ``steps`` says of k = 1..T which stay, bool (T,)."""
        kept = torch.where(steps, self.probability, 0.0)
        return StepProposal(kept / kept.sum())

    def draw(self, u: Tensor, count: int) -> Tensor:
        """``count`` steps for each u in [0, 1), int64 (B, count): one in each of ``count`` equal strata."""
        place = (u[:, None] + torch.arange(count, dtype=torch.float64)) / count
        ends = self.probability.cumsum(0)
        return torch.searchsorted(ends, place * ends[-1], right=True).clamp(max=int(self.probability.nonzero()[-1])) + 1


@dataclass(frozen=True)
class SampledTerms:
    """Terms at the steps that an estimate visited.

    Attributes:
        k: steps, int64 (B, S).
        nats: their terms, float64 (B, S).
        weight: 1/(S probability), float64 (B, S): ``prior`` + sum of weight * nats has the bound as its mean.
        prior: L_T, float64 (B,).
    """

    k: Tensor
    nats: Tensor
    weight: Tensor
    prior: Tensor

    @property
    def total(self) -> Tensor:
        """Estimate of each image's bound in nats, float64 (B,)."""
        return self.prior + (self.weight * self.nats).sum(1)


@dataclass(frozen=True)
class Term:
    """One step of the whole bound.

    Attributes:
        k: the step.
        nats: L_{k-1}, float64 (B,).
        told: what the model said at k.
        squared_error: mean over the dimensions of (x_0 - its estimate)^2, float64 (B,).
    """

    k: int
    nats: Tensor
    prediction: Prediction
    squared_error: Tensor


@dataclass(frozen=True)
class ELBO:
    """A model as a code: what it takes to tell an image by it.

    Attributes:
        denoise: the model, wrapped as it would be to sample.
        schedule: of the noise.
        f: its variance as in ``rules.Ancestral``; None is the learned one.
    """

    denoise: Denoise
    schedule: Schedule
    f: float | None = 0.0

    @property
    def steps(self) -> int:
        """T: that of the table, or ``CONTINUOUS_STEPS``."""
        return self.schedule.steps or CONTINUOUS_STEPS

    def prior(self, x0: Tensor) -> Tensor:
        """L_T, float64 (B,)."""
        wide = _wide(x0)
        return elbo.prior(wide, self.schedule.at(1.0, like=wide)).cpu().double()

    def at(self, x0: Tensor, k: Tensor, eps: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Prediction]:
        """L_{k-1} of images (B, C, H, W) at their steps ``k`` (B,) under noise ``eps``, float64 (B,); and what it told.

        Raises:
            ValueError: as ``elbo.term``.
        """
        t = k.to("cpu", torch.float64) / self.steps
        level = self.schedule.at(t, like=x0)
        prediction = self.denoise(level.noisy(x0, eps), level, cond, None)
        wide = _wide(x0)  # neighbouring levels differ by little: their difference needs the digits
        said = Prediction(
            prediction.x0.to(wide.dtype),
            prediction.variance_fraction.to(wide.dtype) if prediction.variance_fraction is not None else None,
        )
        nats = elbo.term(self.schedule, self.steps, wide, said, self.schedule.at(t, like=wide), self.f)
        return nats.cpu().double(), prediction

    def walk(self, x0: Tensor, noise: Noise, cond: Tensor | None = None) -> Iterator[Term]:
        """All terms, from k = T down to 1; each takes one evaluation, its noise is of (seed, image, k)."""
        for k in range(self.steps, 0, -1):
            eps = noise.normal(tuple(x0.shape[1:]), Stream.BOUND, k, like=x0)
            nats, prediction = self.at(x0, torch.full((len(x0),), k), eps, cond)
            miss = (_wide(x0) - prediction.x0) ** 2
            yield Term(k, nats, prediction, miss.flatten(1).mean(1).cpu().double())

    def visits(
        self, x0: Tensor, noise: Noise, plan: StepProposal, count: int, cond: Tensor | None = None
    ) -> SampledTerms:
        """An estimate from ``count`` steps an image, drawn by ``plan``; image i's are of (seed, i)."""
        k = plan.draw(noise.uniform(Stream.BOUND), count)
        nats = []
        for j in range(count):
            eps = noise.normal(tuple(x0.shape[1:]), Stream.BOUND, j + 1, like=x0)
            nats.append(self.at(x0, k[:, j], eps, cond)[0])
        return SampledTerms(k, torch.stack(nats, 1), 1 / (count * plan.probability[k - 1]), self.prior(x0))

    def by_flow(self, flow: Flow, x0: Tensor, noise: Noise, probes: int = 1, cond: Tensor | None = None) -> Tensor:
        """The bound with the exact likelihood of the flow in place of its steps k > 1, nats, float64 (B,).

            -log p(x_0) <= E_q(x_1 | x_0)[log q(x_1 | x_0) - log p_flow(x_1)] + L_0

        Both bounds tell x_0 from x_1 alike, so that they differ by what the steps lose. The noise of x_1 is a
        dequantisation that the network was trained on (Zheng et al. 2023, "Improved techniques for maximum likelihood
        estimation for diffusion ODEs", sec. 4.2).

        Args:
            flow: of the same model, from its first step on.
            x0: clean images (B, C, H, W).
            noise: of x_1 and of the probes, by (seed, image).
            probes: as of ``Flow.log_prob``.
            cond: what the model is told.
        """
        eps = noise.normal(tuple(x0.shape[1:]), Stream.BOUND, like=x0)
        first = self.schedule.at(1 / self.steps, like=x0)
        density = flow.log_prob(first.noisy(x0, eps), noise, probes, cond).cpu().double()
        normal = (-0.5 * (eps.double() ** 2 + math.log(2 * math.pi)) - first.sigma.double().log()).flatten(1).sum(1)
        decoder, _ = self.at(x0, torch.ones(len(x0)), eps, cond)
        return normal.cpu() - density + decoder


def _wide(x: Tensor) -> Tensor:
    """In double where the device has it."""
    return x if x.device.type == "mps" else x.double()
