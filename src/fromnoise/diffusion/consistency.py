"""Distillation to few evaluations: consistency along the base's trajectories, and the distribution of predictions.

f(x_t, t) is the clean image that the network predicts. A denoiser returns a mean, which is blurred at high noise; a
distilled model returns one image of those that x_t can have come from, so that one evaluation makes a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.diffusion.energy_distance import FeatureMaps, energy_distance
from fromnoise.diffusion.losses import Objective
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("objective", "consistency")
@dataclass(frozen=True)
class Consistency(Objective):
    """Consistency of two points of a trajectory, and the energy distance of predictions to images.

    f(x_t, t) is drawn to f(x_r, r), r = max(0, t - 1/intervals), where x_r follows from x_t by a DDIM step of the base
    (Song et al. 2023, "Consistency models", alg. 2); at r = 0 the target is the base's own x_0. The distance is the
    pseudo-Huber one, sqrt(|d|^2 + c^2) - c with c = huber sqrt(dimensions) (Song and Dhariwal 2024, sec. 3.3), over
    sqrt(dimensions).

    Predictions from each of ``times`` are compared with the batch as sets: their energy distance (Szekely and Rizzo
    2013) in feature maps of the base, to which both are given with noise of ``feature_time``. It has its minimum
    where predictions are distributed as images are, and needs no second network to be trained.

    Attributes:
        base: the model that is distilled.
        times: t at which a sampling step starts, and at which the energy distance counts; 1 among them.
        intervals: length of a step along the trajectory is 1 / intervals in t.
        huber: see above.
        features: weight of the energy distance; 0: consistency alone.
        feature_time: t of the noise with which the base sees predictions and images.
        clip: targets are clipped to [-1, 1]; false for latents.
    """

    base: Denoiser | None = None
    times: tuple[float, ...] = (1.0,)
    intervals: int = 8
    huber: float = 0.03
    features: float = 1.0
    feature_time: float = 0.1
    clip: bool = True
    _maps: list[FeatureMaps] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one is out of range, or there is no base.
        """
        if self.base is None:
            raise ValueError("a trained model is distilled: use fromnoise distill RUN, or set train.init_from")
        if not self.times or not all(0 < t <= 1 for t in (*self.times, self.feature_time)):
            raise ValueError(f"times={list(self.times)} and feature_time={self.feature_time} must be times in (0, 1]")
        if self.intervals < 1:
            raise ValueError(f"intervals={self.intervals} must be 1 or more")
        for name in ("huber", "features"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")

    def per_image(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        level: NoiseLevel,
        cond: Tensor | None,
        previous: Tensor | None,
    ) -> Tensor:
        """Pseudo-Huber distance of f(x_t) and f(x_r), plus the image's part of the energy distance."""
        pure = (level.t == 1).reshape(level.alpha.shape).to(x0.device)
        x = torch.where(pure, eps, level.noisy(x0, eps))  # sampling starts from noise alone
        predicted = denoiser(x, level, cond).x0
        loss = self._consistency(denoiser, predicted, x, level, cond)
        if not self.features:
            return loss
        return loss + self.features * self._energy(predicted, x0, eps, level)

    def _consistency(
        self, denoiser: Denoiser, predicted: Tensor, x: Tensor, level: NoiseLevel, cond: Tensor | None
    ) -> Tensor:
        """Distance of predictions (B,) to those at the next point of the trajectory, which are held fixed."""
        with torch.no_grad():
            target = self._target(denoiser, x, level, cond).float()
        dimensions = x[0].numel()
        scale = self.huber * math.sqrt(dimensions)
        square = (predicted.float() - target).square().flatten(1).sum(1)
        return ((square + scale**2 + 1e-12).sqrt() - scale) / math.sqrt(dimensions)

    def _target(self, denoiser: Denoiser, x: Tensor, level: NoiseLevel, cond: Tensor | None) -> Tensor:
        """f(x_r, r), with x_r from x_t by a DDIM step of the base; the base's x_0 where r = 0."""
        assert self.base is not None
        x0 = self._clipped(self.base(x, level, cond).x0)
        schedule = denoiser.schedule
        r = (level.t - 1 / self.intervals).clamp(min=schedule.first_time)
        next_level = schedule.at(r, like=x)
        further = denoiser(next_level.noisy(x0, level.eps(x, x0)), next_level, cond).x0
        last = (level.t <= 1 / self.intervals + schedule.first_time).reshape(level.alpha.shape).to(x.device)
        return torch.where(last, x0, self._clipped(further))

    def _clipped(self, x0: Tensor) -> Tensor:
        return x0.clamp(-1, 1) if self.clip else x0

    def _energy(self, predicted: Tensor, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """Each image's part of the energy distance (B,), summed over ``times``: times B / n for the n at one time."""
        assert self.base is not None
        total = torch.zeros(len(x0), device=x0.device)
        groups = [(level.t - t).abs() < 1e-9 for t in self.times]
        groups = [group.nonzero().squeeze(1).to(x0.device) for group in groups]
        groups = [group for group in groups if len(group) > 1]
        if not groups or len(x0) < 3:
            return total
        noised = self.base.schedule.at(torch.full((len(x0),), self.feature_time, dtype=torch.float64), like=x0)
        noise = eps.roll(1, 0)  # of another image: a prediction depends on its own
        with torch.no_grad():
            real = self._features(x0, noised, noise)
        made = self._features(predicted, noised, noise)
        for a, b in zip(made, real, strict=True):
            for group in groups:
                total = total.index_add(0, group, _over_places(a[group], b, group) * (len(x0) / len(group)))
        return total / (len(groups) * len(made))

    def _features(self, images: Tensor, level: NoiseLevel, noise: Tensor) -> list[Tensor]:
        """Feature maps of the base at noised images, without a condition."""
        assert self.base is not None
        base = self.base
        if not self._maps:
            self._maps.append(FeatureMaps(base.network))
        return self._maps[0](lambda: base(level.noisy(images, noise), level))


def _over_places(made: Tensor, real: Tensor, own: Tensor) -> Tensor:
    """Energy distance of feature maps (n, C, h, w) to others (m, C, h, w), at each place and of their means, (n,)."""
    with torch.autocast(made.device.type, enabled=False):
        a, b = (maps.float().flatten(2).permute(2, 0, 1) for maps in (made, real))
        return energy_distance(a, b, own) + energy_distance(a.mean(0, keepdim=True), b.mean(0, keepdim=True), own)
