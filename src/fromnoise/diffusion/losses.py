"""What training minimizes: the distance, its weighting over the noise levels, and the variational bound."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.diffusion.augmentation import Augmentation
from fromnoise.diffusion.denoiser import Denoiser, Prediction, null_condition
from fromnoise.diffusion.likelihood import elbo
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import NoiseLevel, Schedule
from fromnoise.diffusion.time_samplers import TimeSampler
from fromnoise.diffusion.weightings import ConstantWeighting, Weighting
from fromnoise.registry import register

Distance = Callable[[Tensor, Tensor], Tensor]
"""Elementwise distance of two tensors."""


@register("distance", "mse")
def mse(a: Tensor, b: Tensor) -> Tensor:
    """Squared error (a - b)^2."""
    return F.mse_loss(a, b, reduction="none")


@register("distance", "mae")
def mae(a: Tensor, b: Tensor) -> Tensor:
    """Absolute error |a - b|."""
    return F.l1_loss(a, b, reduction="none")


@register("distance", "huber")
def huber(a: Tensor, b: Tensor) -> Tensor:
    """Huber loss: (a - b)^2 / 2 below 1, |a - b| - 1/2 above."""
    return F.huber_loss(a, b, reduction="none")


class Objective(ABC):
    """A loss of each image at its noise level."""

    @abstractmethod
    def per_image(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        level: NoiseLevel,
        cond: Tensor | None,
        previous: Tensor | None,
    ) -> Tensor:
        """Loss (B,) of clean images ``x0`` (B, C, H, W) with noise ``eps`` at ``level``.

        The other arguments are those of ``Denoiser.forward``.
        """


@register("objective", "simple")
@dataclass(frozen=True)
class Regression(Objective):
    """Weighted distance of the network's output to its target, mean over the dimensions (Ho et al. 2020, eq. 14).

    With ``Denoiser.clip_x0`` an element has no loss if x_0 = 1 and its prediction is above 1, or x_0 = -1 and it is
    below -1: the clipped prediction is right there. The minimum is still E[x_0 | x_t], and where that is 1 or -1,
    everything beyond.
    """

    distance: Distance = mse
    weighting: Weighting = ConstantWeighting()

    def per_image(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        level: NoiseLevel,
        cond: Tensor | None,
        previous: Tensor | None,
    ) -> Tensor:
        """weight(t) * distance(output, target)."""  # noqa: D403
        x = level.noisy(x0, eps)
        out, _ = denoiser.output(x, level, cond, previous)
        return self.compare(denoiser, out, x, x0, eps, level)

    def compare(self, denoiser: Denoiser, out: Tensor, x: Tensor, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """The loss (B,) of a network output ``out`` at ``x`` that was computed already."""
        distance = self.distance(out, denoiser.target.target_from(x0, eps, level))
        if denoiser.clip_x0:
            predicted = denoiser.target.x0(x, out.detach(), level)
            beyond = ((x0 >= 1) & (predicted > 1)) | ((x0 <= -1) & (predicted < -1))
            distance = distance.masked_fill(beyond, 0.0)
        return (self.weighting.weight(level, denoiser.target) * distance).flatten(1).mean(1)


@register("objective", "vlb")
@dataclass(frozen=True)
class VLB(Objective):
    """The variational bound: T times its term at the drawn step, in nats per dimension (Ho et al. 2020, eq. 5).

    The mean over t is L - L_T.

    Attributes:
        schedule: a beta schedule.
        variance: f of the reverse steps, as of ``samplers.Ancestral``; None is the learned one.
    """

    schedule: Schedule
    variance: float | None = 0.0

    def per_image(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        level: NoiseLevel,
        cond: Tensor | None,
        previous: Tensor | None,
    ) -> Tensor:
        """The decoder's term at k = 1, the KL divergence of the step elsewhere.

        Raises:
            ValueError: the schedule is continuous.
        """
        return self.of_prediction(denoiser(level.noisy(x0, eps), level, cond, previous), x0, level)

    def of_prediction(self, prediction: Prediction, x0: Tensor, level: NoiseLevel) -> Tensor:
        """The loss (B,) of a prediction that was computed already."""
        steps = self.schedule.steps
        if steps is None:
            raise ValueError("the variational bound needs a beta schedule, such as linear, cosine or sigmoid")
        return steps * elbo.term(self.schedule, steps, x0, prediction, level, self.variance) / x0[0].numel()


@dataclass(frozen=True)
class Hybrid(Objective):
    """L_simple for the mean, and the bound for the learned variance alone (Nichol and Dhariwal 2021, eq. 16).

    Attributes:
        simple: the loss of the mean.
        bound: the bound with the learned variance; the mean is held fixed in it.
        vlb_weight: their lambda, of the bound in bits per dimension.
    """

    simple: Regression
    bound: VLB
    vlb_weight: float = 1e-3

    def per_image(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        level: NoiseLevel,
        cond: Tensor | None,
        previous: Tensor | None,
    ) -> Tensor:
        """L_simple + vlb_weight L_vlb, from one evaluation."""
        x = level.noisy(x0, eps)
        out, variance_fraction = denoiser.output(x, level, cond, previous)
        mean = denoiser.target.x0(x, out.detach(), level)
        bits = self.bound.of_prediction(Prediction(mean, variance_fraction), x0, level) / math.log(2)
        return self.simple.compare(denoiser, out, x, x0, eps, level) + self.vlb_weight * bits


@register("objective", "hybrid")
def hybrid(distance: Distance, weighting: Weighting, schedule: Schedule, vlb_weight: float = 1e-3) -> Hybrid:
    """L_simple for the mean, and the bound for the learned variance alone (Nichol and Dhariwal 2021, eq. 16).

    Args:
        distance: of L_simple.
        weighting: of L_simple.
        schedule: a beta schedule.
        vlb_weight: weight of the bound, in bits per dimension.

    Raises:
        ValueError: the weight is negative.
    """
    if not vlb_weight >= 0:
        raise ValueError(f"vlb_weight={vlb_weight} must be 0 or more")
    return Hybrid(Regression(distance, weighting), VLB(schedule, None), vlb_weight)


class LossTerms(NamedTuple):
    """Losses of a batch of images.

    Attributes:
        weighted: with the importance weight of the time, so that the mean is that of uniform times, (B,).
        unweighted: without that weight and without gradient, (B,).
        u: the draws in [0, 1) behind the times, float64 (B,) on the CPU.
        t: the times, float64 (B,) on the CPU.
    """

    weighted: Tensor
    unweighted: Tensor
    u: Tensor
    t: Tensor


class DiffusionLoss(nn.Module):
    """A denoiser with its training loss, called as ``loss(x0, positions)``; wrapped as one module for DDP."""

    def __init__(
        self,
        denoiser: Denoiser,
        objective: Objective,
        time_sampler: TimeSampler,
        *,
        seed: int = 0,
        offset_noise: float = 0.0,
        label_dropout: float = 0.0,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Combine the parts.

        Args:
            denoiser: to be trained; its schedule is that of the noise.
            objective: loss of an image at a noise level.
            time_sampler: draws the noise levels.
            seed: of all noise.
            offset_noise: strength of an extra N(0, I) per image and channel (Guttenberg 2023).
            label_dropout: probability that an image's condition is replaced by the null condition (Ho and Salimans
                2022, alg. 1).
            augmentation: of the training images; its parameters are a condition of the network.
        """
        super().__init__()
        self.denoiser, self.objective, self.time_sampler = denoiser, objective, time_sampler
        self.seed, self.offset_noise, self.label_dropout = seed, offset_noise, label_dropout
        self.augmentation = augmentation

    def forward(
        self,
        x0: Tensor,
        positions: Tensor,
        cond: Tensor | None = None,
        *,
        self_condition: bool = False,
        training: bool = True,
    ) -> LossTerms:
        """Loss of each image at a noise level of its own.

        Args:
            x0: clean images (B, C, H, W) in [-1, 1].
            positions: in the sequence of training images, int64 (B,): with the seed they determine time and noise.
            cond: (B,) classes or (B, A) attributes, or None.
            self_condition: a self-conditioned model sees its own first estimate, computed without gradient.
            training: whether images are augmented and conditions dropped; held-out ones stay as they are.
        """
        noise, denoiser = Noise(self.seed, positions), self.denoiser
        if self.augmentation is not None and training:
            x0, described = self.augmentation(x0, noise)
            denoiser = denoiser.augmented(described)
        u = self.time_sampler.sample(noise)
        schedule = self.denoiser.schedule
        level = schedule.at(self.time_sampler.time(u, schedule), like=x0)
        eps = noise.normal(tuple(x0.shape[1:]), Stream.EPS, like=x0)
        if self.offset_noise:
            shift = noise.normal((x0.shape[1],), Stream.OFFSET, like=x0)
            eps = eps + self.offset_noise * shift.reshape(*shift.shape, *([1] * (x0.ndim - 2)))
        if cond is not None and training and self.label_dropout:
            dropped = (noise.uniform(Stream.LABEL_DROPOUT) < self.label_dropout).to(cond.device)
            cond = torch.where(dropped.reshape(-1, *[1] * (cond.ndim - 1)), null_condition(cond), cond)
        previous = None
        if denoiser.self_conditioning and self_condition:
            with torch.no_grad():
                previous = denoiser(level.noisy(x0, eps), level, cond).x0
        per_image = self.objective.per_image(denoiser, x0, eps, level, cond, previous)
        return LossTerms(per_image * self.time_sampler.weight(u).to(per_image), per_image.detach(), u, level.t)


def self_condition_mask(seed: int, step: int) -> bool:
    """Whether the network sees its own estimate in training step ``step``: in half of the steps it does.

    Source: Chen et al. 2022, alg. 1.
    """
    return bool(Noise(seed, torch.tensor([step])).uniform(Stream.SELF_CONDITION) < 0.5)


def loss_by_time(losses: Tensor, times: Tensor, bins: int = 10) -> Tensor:
    """Mean loss in ``bins`` equal bins of t in (0, 1], float64 (bins,); NaN for an empty bin."""
    index = (times.to(torch.float64) * bins).ceil().long().sub(1).clamp(0, bins - 1)
    total = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, losses.to("cpu", torch.float64))
    count = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, torch.ones_like(index, dtype=torch.float64))
    return torch.where(count > 0, total / count, math.nan)
