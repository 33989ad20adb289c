"""Noise schedules: the scales of signal and noise at time t.

A schedule is one function, the log signal-to-noise ratio ``logsnr(t)``, t in [0, 1], decreasing from +inf at the clean
image. With x_t = alpha x_0 + sigma eps and alpha^2 + sigma^2 = 1 (variance preserving)

    alpha^2 = sigmoid(logsnr)        sigma^2 = sigmoid(-logsnr)

so there is no cancellation at either end, and any two times, not only neighbours, have a transition (``process.py``).

The beta schedules of Ho et al. 2020 are points of such a function: step k of T is t = k/T, and
A_k = prod_{j<=k} (1 - beta_j) = alpha(k/T)^2 (their eq. 4, written alpha-bar there).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.registry import register


@dataclass(frozen=True)
class NoiseLevel:
    """A point of a schedule.

    Attributes:
        t: time in [0, 1], float64 on the CPU, shape () or (B,).
        alpha: signal scale: 0-d float64 when sampling; (B, 1, 1, ...) in the images' dtype and device when training.
        sigma: noise scale, shaped as ``alpha``.
        logsnr: log(alpha^2 / sigma^2), shaped as ``alpha``; +inf at t = 0.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    logsnr: Tensor

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha^2 / sigma^2."""
        return self.logsnr.exp()

    def noisy(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Sample of q(x_t | x_0) with the given noise: alpha x0 + sigma eps (Ho et al. 2020, eq. 4)."""
        return self.alpha * x0 + self.sigma * eps

    def eps(self, x: Tensor, x0: Tensor) -> Tensor:
        """The noise that leads from ``x0`` to ``x``: (x - alpha x0) / sigma; needs sigma > 0."""
        return (x - self.alpha * x0) / self.sigma


class Schedule(ABC):
    """The log signal-to-noise ratio as a function of time."""

    @property
    @abstractmethod
    def steps(self) -> int | None:
        """T of a beta schedule; None for a continuous schedule."""

    @property
    def first_time(self) -> float:
        """The smallest time of a grid between the ends of the schedule: 1/T, with T = 1000 if it is continuous."""
        return 1 / (self.steps or 1000)

    @abstractmethod
    def logsnr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2) at the times ``t``, float64, any shape; decreasing, +inf at 0."""  # noqa: D403

    def time_from_logsnr(self, logsnr: Tensor) -> Tensor:
        """The inverse of ``logsnr``, by bisection to the last bit.

        Args:
            logsnr: any shape; beyond the ends of the schedule the time is 0 or 1.
        """
        low, high = torch.zeros_like(logsnr, dtype=torch.float64), torch.ones_like(logsnr, dtype=torch.float64)
        for _ in range(60):
            middle = (low + high) / 2
            cleaner = self.logsnr(middle) > logsnr
            low, high = torch.where(cleaner, middle, low), torch.where(cleaner, high, middle)
        return high

    def _exact(self, t: Tensor | float) -> Tensor:
        """Times in float64; those of less precision that are a rounded k/T of a beta schedule are k/T."""
        exact = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        if self.steps is None or not isinstance(t, Tensor) or t.dtype == torch.float64 or not t.is_floating_point():
            return exact
        nearest = (exact * self.steps).round() / self.steps
        return torch.where((exact - nearest).abs() <= torch.finfo(t.dtype).eps, nearest, exact)

    @abstractmethod
    def time_from_uniform(self, u: Tensor) -> Tensor:
        """Training times from u, uniform on [0, 1): uniform on 1/T .. 1 of a beta schedule, or on (0, 1]."""

    def at(self, t: Tensor | float, like: Tensor | None = None) -> NoiseLevel:
        """The noise levels at times ``t``.

        Args:
            t: times in [0, 1], shape () or (B,).
            like: images (B, ...); if given, scales take their dtype and device and the shape (B, 1, ...).
        """
        t = self._exact(t)
        logsnr = self.logsnr(t)
        scales = (torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt(), logsnr)
        if like is not None:
            shape = t.shape + (1,) * (like.ndim - t.ndim)
            scales = tuple(s.reshape(shape).to(like.device, like.dtype, non_blocking=True) for s in scales)
        return NoiseLevel(t, *scales)


@register("schedule", "betas")
class BetaSchedule(Schedule):
    """A schedule of given betas beta_1 .. beta_T, exact at t = k/T (Ho et al. 2020, sec. 2).

    Between its points log A is linear in t: the variance-preserving SDE whose rate is constant within a step
    (Song et al. 2021, eq. 11).
    """

    def __init__(self, betas: Sequence[float] | Tensor) -> None:
        """Keep log A in float64.

        Args:
            betas: variances of the forward steps, (T,), each in (0, 1]; only the last may be 1 (zero terminal SNR).

        Raises:
            ValueError: a beta lies outside that range.
        """
        betas = torch.as_tensor(betas, dtype=torch.float64).detach().to("cpu")
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError("a beta schedule needs at least one beta")
        if not bool((betas > 0).all()) or not bool((betas[:-1] < 1).all()) or float(betas[-1]) > 1:
            raise ValueError("each beta must lie in (0, 1), the last may be 1")
        self.betas = betas
        self._log_a = torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0)])

    @property
    def steps(self) -> int:
        """T."""
        return len(self.betas)

    def log_a(self, t: Tensor) -> Tensor:
        """log(alpha^2) at the times ``t``."""  # noqa: D403
        place = t.to(torch.float64) * self.steps
        nearest = place.round()
        place = torch.where((place - nearest).abs() < 1e-6, nearest, place).clamp(0, self.steps)
        below = place.floor().long().clamp(max=self.steps - 1)
        low, high = self._log_a[below], self._log_a[below + 1]
        part = place - below
        return torch.where(part == 0, low, torch.where(part == 1, high, low + part * (high - low)))

    def logsnr(self, t: Tensor) -> Tensor:
        """Log A - log(1 - A), with 1 - A as -expm1(log A) so that the first steps keep their digits."""
        log_a = self.log_a(t)
        return log_a - torch.log(-torch.expm1(log_a))

    def time_from_logsnr(self, logsnr: Tensor) -> Tensor:
        """The exact inverse of the piecewise linear log A."""
        log_a = torch.nn.functional.logsigmoid(logsnr.to(torch.float64))
        above = torch.searchsorted(-self._log_a, -log_a).clamp(1, self.steps)
        early, late = self._log_a[above - 1], self._log_a[above]
        # a step to zero SNR has no point within: every finite log A belongs to its clean end, also where it is rounded
        part = torch.where(torch.isfinite(late), (log_a - early) / (late - early), torch.isneginf(log_a).double())
        return ((above - 1 + part) / self.steps).clamp(0, 1)

    def time_from_uniform(self, u: Tensor) -> Tensor:
        """Times k/T, k = 1 + floor(u T)."""
        return ((u.to(torch.float64) * self.steps).floor() + 1).clamp(max=self.steps) / self.steps


@register("schedule", "linear")
class LinearSchedule(BetaSchedule):
    """Betas equally spaced from beta_start to beta_end (Ho et al. 2020, sec. 4: 1e-4 to 0.02 for T = 1000)."""

    def __init__(
        self, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: bool = True
    ) -> None:
        """Space the betas.

        Args:
            steps: T.
            beta_start: beta_1 at T = 1000.
            beta_end: beta_T at T = 1000.
            rescale: multiply the betas by 1000/T, at most 0.999, so that every T of 10 or more ends in noise (A_T below
                1e-4: 4e-5 at 1000, 2e-5 at 100, 6e-11 at 20; 0.9 at 1); false takes them literally (Nichol and
                Dhariwal 2021, sec. 3.2).

        Raises:
            ValueError: an option is out of range.
        """
        check_steps(steps)
        for name, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
            if not 0 < beta < 1:
                raise ValueError(f"{name}={beta} must lie between 0 and 1")
        self.beta_start, self.beta_end, self.rescale = beta_start, beta_end, rescale
        scale = 1000 / steps if rescale else 1.0
        super().__init__((scale * torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)).clamp(max=0.999))


@register("schedule", "cosine")
class CosineSchedule(BetaSchedule):
    """A(t) proportional to cos^2(pi/2 (t + s)/(1 + s)), as betas (Nichol and Dhariwal 2021, eq. 17)."""

    def __init__(self, steps: int = 1000, offset: float = 0.008) -> None:
        """Compute the betas.

        Args:
            steps: T.
            offset: s of the equation.

        Raises:
            ValueError: an option is out of range.
        """
        check_steps(steps)
        if not offset >= 0:
            raise ValueError(f"offset={offset} must be 0 or more")
        self.offset = offset
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        super().__init__(_betas_from_log_a(2 * torch.log(torch.cos(math.pi / 2 * (t + offset) / (1 + offset)).abs())))


@register("schedule", "sigmoid")
class SigmoidSchedule(BetaSchedule):
    """A(t) a decreasing sigmoid, scaled to fall from 1 to 0, as betas (Jabri et al. 2022, alg. 1)."""

    def __init__(self, steps: int = 1000, start: float = -3.0, end: float = 3.0, temperature: float = 1.0) -> None:
        """Compute the betas.

        Args:
            steps: T.
            start: argument of the sigmoid at t = 0.
            end: argument of the sigmoid at t = 1.
            temperature: the argument is divided by it (tau of the paper).

        Raises:
            ValueError: an option is out of range.
        """
        check_steps(steps)
        if not start < end or not temperature > 0:
            raise ValueError(f"start={start} must be less than end={end}, and temperature={temperature} positive")
        self.start, self.end, self.temperature = start, end, temperature
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        bend = torch.sigmoid((t * (end - start) + start) / temperature)
        a = (bend[-1] - bend) / (bend[-1] - bend[0])
        super().__init__(_betas_from_log_a(torch.log(a.clamp(min=1e-30))))


@register("schedule", "cosine-continuous")
class ContinuousCosine(Schedule):
    """The cosine schedule in continuous time, alpha = cos(pi t / 2) (Nichol and Dhariwal 2021, eq. 17, at s = 0).

    logsnr = -2 log tan(pi t / 2), clamped to +-limit so that every target stays finite.
    """

    def __init__(self, limit: float = 15.0) -> None:
        """Set the limit.

        Args:
            limit: largest absolute log signal-to-noise ratio for t > 0.

        Raises:
            ValueError: it is not positive.
        """
        if not limit > 0:
            raise ValueError(f"limit={limit} must be positive")
        self.limit = limit

    @property
    def steps(self) -> None:
        """None: the schedule is continuous."""
        return None

    def logsnr(self, t: Tensor) -> Tensor:
        """-2 log tan(pi t / 2); +inf at t = 0, the clean image."""
        t = t.to(torch.float64)
        value = (-2 * torch.log(torch.tan(math.pi / 2 * t))).nan_to_num(posinf=self.limit, neginf=-self.limit)
        value = torch.where(t >= 1, -self.limit, value).clamp(-self.limit, self.limit)
        return torch.where(t <= 0, math.inf, value)

    def time_from_logsnr(self, logsnr: Tensor) -> Tensor:
        """2/pi atan(e^(-logsnr/2)), within the limits."""
        inside = 2 / math.pi * torch.atan(torch.exp(-logsnr.to(torch.float64) / 2))
        return torch.where(logsnr <= -self.limit, 1.0, torch.where(torch.isposinf(logsnr), 0.0, inside))

    def time_from_uniform(self, u: Tensor) -> Tensor:
        """Times 1 - u, in (0, 1]."""
        return 1 - u.to(torch.float64)


def zero_terminal_snr(schedule: BetaSchedule) -> BetaSchedule:
    """Rescale a beta schedule to zero terminal SNR (Lin et al. 2024, alg. 1).

    sqrt(A) keeps its first value and falls to 0 at the last. With a non-zero terminal SNR, x_T still contains the
    image's mean brightness, which sampling from pure noise does not have, so samples tend to medium brightness.
    """
    alpha = torch.exp(schedule.log_a(torch.arange(1, schedule.steps + 1, dtype=torch.float64) / schedule.steps) / 2)
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    log_a = torch.cat([alpha.new_zeros(1), 2 * alpha.log()])
    return BetaSchedule(-torch.expm1(log_a.diff()))


def _betas_from_log_a(log_a: Tensor) -> Tensor:
    """Betas from log A at k = 0 .. T (any offset), at most 0.999 as in Nichol and Dhariwal 2021, sec. 3.2."""
    return (-torch.expm1(log_a[1:] - log_a[:-1])).clamp(min=1e-12, max=0.999)


MAX_STEPS = 1_000_000
"""Largest T of a beta schedule."""


def check_steps(steps: int) -> None:
    """Check T.

    Raises:
        ValueError: it is not from 1 to ``MAX_STEPS``.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps={steps} must be from 1 to {MAX_STEPS:,}")


linear = LinearSchedule
cosine = CosineSchedule
sigmoid = SigmoidSchedule
continuous_cosine = ContinuousCosine
