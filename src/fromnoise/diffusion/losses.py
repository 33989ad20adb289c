"""What training minimises: how t is drawn, what is compared and how it is weighted."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.diffusion.denoiser import Denoiser, Prediction, null_condition
from fromnoise.diffusion.likelihood import elbo
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import NoiseLevel, Schedule
from fromnoise.diffusion.targets import Target
from fromnoise.diffusion.time_samplers import TimeSampler

Metric = Callable[[Tensor, Tensor], Tensor]
"""Elementwise distance of two tensors."""


def mse(a: Tensor, b: Tensor) -> Tensor:
    """(a - b)^2."""
    return F.mse_loss(a, b, reduction="none")


def mae(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|."""
    return F.l1_loss(a, b, reduction="none")


def huber(a: Tensor, b: Tensor) -> Tensor:
    """(a - b)^2 / 2 below 1, |a - b| - 1/2 above."""
    return F.huber_loss(a, b, reduction="none")


class Weighting(ABC):
    """Weight of a level's loss."""

    @abstractmethod
    def of(self, level: NoiseLevel, target: Target) -> Tensor:
        """Weight of the squared error in the target, shaped as ``level.alpha``."""


class ConstantWeighting(Weighting):
    """1 (Ho et al. 2020, eq. 14)."""

    def of(self, level: NoiseLevel, target: Target) -> Tensor:
        """1."""
        return level.alpha.new_ones(level.alpha.shape)


@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, gamma) on the error in x_0, whatever the target (Hang et al. 2023, eq. 9)."""

    gamma: float = 5.0

    def of(self, level: NoiseLevel, target: Target) -> Tensor:
        """min(SNR, gamma) / gain."""
        return level.snr.clamp(max=self.gamma) / target.snr_weight(level)


@dataclass(frozen=True)
class P2(Weighting):
    """1/(k + SNR)^gamma on the error in eps, whatever the target (Choi et al. 2022, eq. 8)."""

    k: float = 1.0
    gamma: float = 1.0

    def of(self, level: NoiseLevel, target: Target) -> Tensor:
        """SNR / (k + SNR)^gamma / gain."""
        return level.snr / (self.k + level.snr) ** self.gamma / target.snr_weight(level)


class Loss(ABC):
    """A loss of each image at its level."""

    @abstractmethod
    def of(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        level: NoiseLevel,
        cond: Tensor | None,
        previous: Tensor | None,
    ) -> Tensor:
        """Loss (B,) of clean images ``x0`` (B, C, H, W) under noise ``eps`` at ``level``.

        The other arguments as of ``Denoiser``.
        """


@dataclass(frozen=True)
class Regression(Loss):
    """A weighted distance from the network's output to its target, mean over the dimensions."""

    metric: Metric = mse
    weighting: Weighting = ConstantWeighting()

    def of(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        level: NoiseLevel,
        cond: Tensor | None,
        previous: Tensor | None,
    ) -> Tensor:
        """weight(t) * metric(output, target)."""
        out, _ = denoiser.output(level.noisy(x0, eps), level, cond, previous)
        return self.compare(denoiser, out, x0, eps, level)

    def compare(self, denoiser: Denoiser, out: Tensor, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """The same of an output that was made already."""
        distance = self.metric(out, denoiser.target.of(x0, eps, level))
        return (self.weighting.of(level, denoiser.target) * distance).flatten(1).mean(1)


@dataclass(frozen=True)
class VLB(Loss):
    """T times the drawn term of the variational bound, in nats a dimension: its mean over t is L - L_T.

    Source: Ho et al. 2020, eq. 5.

    Attributes:
        schedule: the table.
        f: the model's variance, as of ``rules.Ancestral``; None is the learned one.
    """

    schedule: Schedule
    f: float | None = 0.0

    def of(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        level: NoiseLevel,
        cond: Tensor | None,
        previous: Tensor | None,
    ) -> Tensor:
        """The decoder's term where k = 1, the step's elsewhere.

        Raises:
            ValueError: the schedule is no table.
        """
        return self.prediction(denoiser(level.noisy(x0, eps), level, cond, previous), x0, level)

    def prediction(self, prediction: Prediction, x0: Tensor, level: NoiseLevel) -> Tensor:
        """The same of a prediction that was made already."""
        steps = self.schedule.steps
        if steps is None:
            raise ValueError("the bound of a step table was asked of a schedule without steps")
        return steps * elbo.term(self.schedule, steps, x0, prediction, level, self.f) / x0[0].numel()


@dataclass(frozen=True)
class Hybrid(Loss):
    """L_simple for the mean, and the bound for the learned variance alone (Nichol and Dhariwal 2021, eq. 16).

    Attributes:
        simple: the loss of the mean.
        bound: the true bound with the learned variance; the mean is held fixed in it.
        share: their lambda, of the bound in bits a dimension.
    """

    simple: Regression
    bound: VLB
    share: float = 1e-3

    def of(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        level: NoiseLevel,
        cond: Tensor | None,
        previous: Tensor | None,
    ) -> Tensor:
        """L_simple + share L_vlb, from one evaluation."""
        x = level.noisy(x0, eps)
        out, variance_fraction = denoiser.output(x, level, cond, previous)
        mean = denoiser.target.x0(x, out.detach(), level)
        bits = self.bound.prediction(Prediction(mean, variance_fraction), x0, level) / math.log(2)
        return self.simple.compare(denoiser, out, x0, eps, level) + self.share * bits


class LossTerms(NamedTuple):
    """Losses of some images.

    Attributes:
        weighted: by how rarely its time is drawn, so that the mean is that of uniform times, (B,).
        plain: the same without the weights and the gradient, (B,).
        u: where the times were drawn, in [0, 1), float64 (B,) on the CPU.
        t: the times, float64 (B,) on the CPU.
    """

    weighted: Tensor
    plain: Tensor
    u: Tensor
    t: Tensor


class DiffusionLoss(nn.Module):
    """A denoiser with its loss: what is wrapped for several processes, and called as ``objective(x0, positions)``."""

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: Schedule,
        loss: Loss,
        times: TimeSampler,
        *,
        seed: int = 0,
        offset_noise: float = 0.0,
        label_dropout: float = 0.0,
    ) -> None:
        """Join the parts.

        Args:
            denoiser: to be trained.
            schedule: of the noise.
            loss: of an image at a level.
            times: how levels are drawn.
            seed: of all noise.
            offset_noise: strength of an extra N(0, I) per image and channel (Guttenberg 2023).
            label_dropout: share of images whose label is hidden (Ho and Salimans 2022, alg. 1).
        """
        super().__init__()
        self.denoiser, self.schedule, self.loss, self.times = denoiser, schedule, loss, times
        self.seed, self.offset_noise, self.label_dropout = seed, offset_noise, label_dropout

    def forward(
        self, x0: Tensor, positions: Tensor, cond: Tensor | None = None, *, guess: bool = False, training: bool = True
    ) -> LossTerms:
        """Loss of each image at a level of its own.

        Args:
            x0: clean images (B, C, H, W) in [-1, 1].
            positions: in the stream of training images, int64 (B,): with the seed they fix time and noise.
            cond: (B,) classes or None.
            guess: let a model that conditions on itself see its own first estimate, taken without gradient.
            training: whether labels are dropped; held-out images keep theirs.
        """
        noise = Noise(self.seed, positions)
        u = self.times.draw(noise)
        level = self.schedule.at(self.times.place(u, self.schedule), like=x0)
        eps = noise.normal(tuple(x0.shape[1:]), Stream.EPS, like=x0)
        if self.offset_noise:
            shift = noise.normal((x0.shape[1],), Stream.OFFSET, like=x0)
            eps = eps + self.offset_noise * shift.reshape(*shift.shape, *([1] * (x0.ndim - 2)))
        if cond is not None and training and self.label_dropout:
            hidden = (noise.uniform(Stream.LABEL) < self.label_dropout).to(cond.device)
            cond = torch.where(hidden.reshape(-1, *[1] * (cond.ndim - 1)), null_condition(cond), cond)
        previous = None
        if self.denoiser.self_conditioning and guess:
            with torch.no_grad():
                previous = self.denoiser(level.noisy(x0, eps), level, cond).x0
        each = self.loss.of(self.denoiser, x0, eps, level, cond, previous)
        return LossTerms(each * self.times.weight(u).to(each), each.detach(), u, level.t)


def self_condition_mask(seed: int, step: int) -> bool:
    """Whether training step ``step`` lets the model see its own estimate: half of the steps do.

    Source: Chen et al. 2022, alg. 1.
    """
    return bool(Noise(seed, torch.tensor([step])).uniform(Stream.SELF) < 0.5)


def loss_by_time(losses: Tensor, times: Tensor, bins: int = 10) -> Tensor:
    """Mean loss in ``bins`` equal bins of t in (0, 1], float64 (bins,); NaN where none fell."""
    place = (times.to(torch.float64) * bins).ceil().long().sub(1).clamp(0, bins - 1)
    total = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, losses.to("cpu", torch.float64))
    count = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, torch.ones_like(place, dtype=torch.float64))
    return torch.where(count > 0, total / count, math.nan)
