"""Time grids, and the one sampling loop: a generator, so that its caller draws the progress bar, saves or stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.samplers.base import Sampler
from fromnoise.diffusion.schedules import NoiseLevel, Schedule
from fromnoise.registry import register

_SEED_STEP = 0x9E3779B97F4A7C15  # between the seeds of a step's first 240 noise tensors and of the next


@dataclass(frozen=True)
class Step:
    """What the loop yields after each step.

    Attributes:
        index: 0 for the first step.
        total: number of steps.
        level_t: the level at the start of the step.
        level_s: the level reached.
        x: x_s, (B, C, H, W).
        prediction: the denoiser's estimate at x_t.
    """

    index: int
    total: int
    level_t: NoiseLevel
    level_s: NoiseLevel
    x: Tensor
    prediction: Prediction


@register("grid", "uniform")
def uniform(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    """``steps`` + 1 levels from t = 1 to t = 0, equally spaced in t, on the nearest steps of a beta schedule.

    Raises:
        ValueError: no steps, or more than the schedule has.
    """
    return snap_to_steps(
        schedule, torch.linspace(1, 0, steps + 1, dtype=torch.float64) if steps > 0 else torch.empty(0)
    )


@register("grid", "quadratic")
def quadratic(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    """Times t = u^2 with u equally spaced: dense near the clean image (Song et al. 2021, "DDIM", app. D.2).

    Raises:
        ValueError: as of ``uniform``.
    """
    return snap_to_steps(
        schedule, torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2 if steps > 0 else torch.empty(0)
    )


@register("grid", "logsnr")
def logsnr(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    """Equally spaced in log-SNR from t = 1 to the first step, then t = 0 (Lu et al. 2022).

    Raises:
        ValueError: as of ``uniform``, or t = 1 is pure noise, whose log-SNR is infinite.
    """
    return _between_ends(schedule, steps, lambda high, low, u: high + u * (low - high))


@register("grid", "karras")
def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> list[NoiseLevel]:
    """sigma/alpha spaced as in Karras et al. 2022, eq. 5, from t = 1 to the first step, then t = 0.

    Args:
        schedule: of the noise.
        steps: number of steps.
        rho: exponent; larger puts more steps near the clean image.

    Raises:
        ValueError: as of ``logsnr``, or rho is not positive.
    """  # noqa: D403
    if not rho > 0:
        raise ValueError(f"rho={rho} must be positive")

    def place(high: Tensor, low: Tensor, u: Tensor) -> Tensor:
        noisy, clean = (torch.exp(-v / 2) ** (1 / rho) for v in (high, low))
        return -2 * rho * torch.log(noisy + u * (clean - noisy))

    return _between_ends(schedule, steps, place)


@register("grid", "times")
def given_times(schedule: Schedule, steps: int, times: tuple[float, ...] = (1.0,)) -> list[NoiseLevel]:
    """Given times, then t = 0; for another number of steps they are interpolated linearly.

    Args:
        schedule: of the noise.
        steps: number of steps.
        times: decreasing times t in (0, 1], the first of them 1.

    Raises:
        ValueError: the times are not such a list, or as of ``uniform``.
    """
    knots = torch.tensor([*times, 0.0], dtype=torch.float64)
    if not times or times[0] != 1 or not bool((knots.diff() < 0).all()):
        raise ValueError(f"times={list(times)} must decrease from 1 and stay above 0")
    if steps < 1:
        return uniform(schedule, steps)  # raises the error
    place = torch.linspace(0, len(times), steps + 1, dtype=torch.float64)
    below = place.floor().long().clamp(max=len(times) - 1)
    return snap_to_steps(schedule, torch.lerp(knots[below], knots[below + 1], place - below))


def _between_ends(
    schedule: Schedule, steps: int, place: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> list[NoiseLevel]:
    """Levels whose log-SNR ``place(high, low, u)`` gives for u in [0, 1], between those of t = 1 and the first step."""
    if steps < 1:
        return uniform(schedule, steps)  # raises the error
    ends = schedule.logsnr(torch.tensor([1.0, schedule.first_time], dtype=torch.float64))
    if not bool(torch.isfinite(ends).all()):
        raise ValueError("the log-SNR of a zero terminal SNR schedule is infinite at t = 1: choose grid uniform")
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    times = schedule.time_from_logsnr(place(ends[0], ends[1], u))
    times[0] = 1.0
    return snap_to_steps(schedule, torch.cat([times, times.new_zeros(1)]))


def snap_to_steps(schedule: Schedule, times: Tensor) -> list[NoiseLevel]:
    """The levels at decreasing ``times``, moved to the nearest free steps of a beta schedule.

    Raises:
        ValueError: fewer than two times, or more steps than the schedule has.
    """
    if len(times) < 2:
        raise ValueError("sampling needs at least one step")
    if schedule.steps is not None:
        last = len(times) - 1
        if last > schedule.steps:
            raise ValueError(f"steps {last} is more than the {schedule.steps} of the model: use at most that many")
        k = (times * schedule.steps).round().long()
        # rounding may have joined two: keep them strictly decreasing, from the clean end up, and within the schedule
        for i in range(last - 1, -1, -1):
            k[i] = max(int(k[i]), int(k[i + 1]) + 1)
        for i in range(last + 1):
            k[i] = min(int(k[i]), schedule.steps - i)
        times = k.to(torch.float64) / schedule.steps
    return [schedule.at(t) for t in times]


def initial_noise(shape: tuple[int, ...], noise: Noise, like: Tensor) -> Tensor:
    """x_T ~ N(0, I), each sample from its own stream, (B, *shape)."""  # noqa: D403
    return noise.image(shape, Stream.START, like=like)


def _step_noise(noise: Noise, index: int, number: int, like: Tensor) -> Tensor:
    """The noise tensor ``number`` of step ``index``, shaped as ``like``.

    16 for each step lie side by side in the stream, 14 times 16 further up, and what is beyond has other seeds.
    """
    turn, rest = divmod(number, 15 * 16)
    more, k = divmod(rest, 16)
    own = replace(noise, seed=noise.seed + turn * _SEED_STEP) if turn else noise
    return own.image(tuple(like.shape[1:]), Stream.STEP, (more << 20) + index * 16 + k, like=like)


def sampling_loop(
    denoise: Denoise,
    sampler: Sampler,
    levels: Sequence[NoiseLevel],
    x: Tensor,
    noise: Noise,
    cond: Tensor | None = None,
) -> Iterator[Step]:
    """Sample from ``levels[0]`` to ``levels[-1]``.

    Args:
        denoise: the model, wrapped in guidance.
        sampler: computes a step.
        levels: decreasing noise levels; the last is usually t = 0.
        x: images at ``levels[0]``, (B, C, H, W).
        noise: gives each sample its own random numbers, independent of the batch.
        cond: class indices (B,), attributes (B, A), or None.

    Yields:
        One ``Step`` a step. A self-conditioned model receives its last estimate of x_0.
    """
    memory, previous, total = sampler.start(), None, len(levels) - 1
    for index, (level_t, level_s) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        numbers = count()

        def denoise_step(y: Tensor, level: NoiseLevel, estimate: Tensor | None = previous) -> Prediction:
            return denoise(y, level, cond, estimate)

        def fresh_noise(index: int = index, numbers: Iterator[int] = numbers, like: Tensor = x) -> Tensor:
            return _step_noise(noise, index, next(numbers), like)

        x, prediction, memory = sampler.step(denoise_step, x, level_t, level_s, fresh_noise, memory)
        previous = prediction.x0
        yield Step(index, total, level_t, level_s, x, prediction)
