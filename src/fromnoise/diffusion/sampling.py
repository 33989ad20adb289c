"""Time grids, and the one sampling loop, a generator: whoever iterates draws the bar, writes the GIF, stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.samplers.base import Sampler
from fromnoise.diffusion.schedules import NoiseLevel, Schedule


@dataclass(frozen=True)
class Step:
    """What the loop yields after each step.

    Attributes:
        index: 0 for the first step.
        total: how many steps there will be.
        here: the level that the step left.
        there: the level that it reached.
        x: images at ``level_s``, (B, C, H, W).
        prediction: the estimate of x_0 made on the way.
    """

    index: int
    total: int
    level_t: NoiseLevel
    level_s: NoiseLevel
    x: Tensor
    prediction: Prediction


def uniform(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    """``steps`` + 1 levels from t = 1 down to t = 0, equally spaced, on the nearest steps of a table.

    Raises:
        ValueError: no step, or more than the table has.
    """
    return on_table(schedule, torch.linspace(1, 0, steps + 1, dtype=torch.float64) if steps > 0 else torch.empty(0))


def quadratic(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    """As ``uniform``, with t proportional to the square of the step: dense near the clean image.

    Source: Song et al. 2020 (DDIM), app. D.2.
    """
    return on_table(
        schedule, torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2 if steps > 0 else torch.empty(0)
    )


def logsnr(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    """Equally spaced in the log signal-to-noise ratio, from t = 1 to the first step; then to 0 (Lu et al. 2022).

    Raises:
        ValueError: as ``uniform``, or t = 1 is pure noise, which has no logsnr.
    """
    return _between(schedule, steps, lambda high, low, u: high + u * (low - high))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> list[NoiseLevel]:
    """sigma/alpha as Karras et al. 2022, eq. 5, from t = 1 to the first step; then to 0.

    Raises:
        ValueError: as ``logsnr``.
    """

    def place(high: Tensor, low: Tensor, u: Tensor) -> Tensor:
        noisy, clean = (torch.exp(-v / 2) ** (1 / rho) for v in (high, low))
        return -2 * rho * torch.log(noisy + u * (clean - noisy))

    return _between(schedule, steps, place)


def leading(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    """Steps 1, 1 + c, 1 + 2 c ... with c = T // steps, from the last down, as many peers space them.

    It starts below t = 1: with x_T still pure noise the brightness of pictures is biased (Lin et al. 2023).
    ``uniform``, which they call trailing, is not.

    Raises:
        ValueError: as ``uniform``, or the schedule is no table.
    """
    if schedule.steps is None:
        raise ValueError("leading steps are of a table: take grid uniform")
    if not 1 <= steps <= schedule.steps:
        return uniform(schedule, steps)  # says what is wrong
    k = torch.arange(steps - 1, -1, -1) * (schedule.steps // steps) + 1
    return on_table(schedule, torch.cat([k, k.new_zeros(1)]).to(torch.float64) / schedule.steps)


def _between(schedule: Schedule, steps: int, place: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[NoiseLevel]:
    """``place`` gives the logsnr at u in [0, 1] between those of t = 1 and of the first step."""
    if steps < 1:
        return uniform(schedule, steps)  # says what is wrong
    ends = schedule.logsnr(torch.tensor([1.0, 1 / (schedule.steps or 1000)], dtype=torch.float64))
    if not bool(torch.isfinite(ends).all()):
        raise ValueError("this schedule ends in pure noise, which has no logsnr: take grid uniform")
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    times = schedule.time(place(ends[0], ends[1], u))
    times[0] = 1.0
    return on_table(schedule, torch.cat([times, times.new_zeros(1)]))


def on_table(schedule: Schedule, times: Tensor) -> list[NoiseLevel]:
    """The levels at falling ``times``, moved to the nearest free steps if the schedule is a table.

    Raises:
        ValueError: fewer than two times, or more steps than the table has.
    """
    if len(times) < 2:
        raise ValueError("sampling needs at least one step")
    if schedule.steps is not None:
        last = len(times) - 1
        if last > schedule.steps:
            raise ValueError(f"{last} steps were asked of a model of {schedule.steps}: take at most {schedule.steps}")
        k = (times * schedule.steps).round().long()
        # rounding may have joined two: keep them strictly falling, from the clean end up, and within the table
        for i in range(last - 1, -1, -1):
            k[i] = max(int(k[i]), int(k[i + 1]) + 1)
        for i in range(last + 1):
            k[i] = min(int(k[i]), schedule.steps - i)
        times = k.to(torch.float64) / schedule.steps
    return [schedule.at(t) for t in times]


def start(shape: tuple[int, ...], noise: Noise, like: Tensor) -> Tensor:
    """The noise at t = 1, each sample's own, (B, *shape): a variance-preserving chain ends in N(0, I)."""
    return noise.image(shape, Stream.START, like=like)


def trajectory(
    denoise: Denoise,
    sampler: Sampler,
    levels: Sequence[NoiseLevel],
    x: Tensor,
    noise: Noise,
    cond: Tensor | None = None,
) -> Iterator[Step]:
    """Follow ``sampler`` down ``levels``.

    Args:
        denoise: the model, wrapped in whatever guidance.
        rule: what a step does.
        levels: falling times, the last is usually t = 0.
        x: images at ``levels[0]``, (B, C, H, W).
        noise: gives each sample its own numbers, whatever the batch.
        cond: (B,) class indices or None.

    Yields:
        One ``Step`` a step. A model that conditions on itself is handed its last estimate of x_0.
    """
    memory, previous, total = sampler.start(), None, len(levels) - 1
    for index, (level_t, level_s) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        # 16 numbers for each step side by side; a rule that needs more finds them further up
        draws = ((more << 20) + index * 16 + k for more in range(15) for k in range(16))

        def ask(y: Tensor, level: NoiseLevel, seen: Tensor | None = previous) -> Prediction:
            return denoise(y, level, cond, seen)

        def fresh(parts: Iterator[int] = draws, like: Tensor = x) -> Tensor:
            return noise.image(tuple(like.shape[1:]), Stream.STEP, next(parts), like=like)

        x, prediction, memory = sampler.step(ask, x, level_t, level_s, fresh, memory)
        previous = prediction.x0
        yield Step(index, total, level_t, level_s, x, prediction)
