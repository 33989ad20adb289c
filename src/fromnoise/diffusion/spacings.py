"""Time grids by whole steps of a beta schedule, as other libraries space them (Lin et al. 2024, table 2).

``sampling.uniform`` is the grid that fromnoise recommends; these reproduce samples of other programs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.diffusion.sampling import uniform
from fromnoise.diffusion.schedules import NoiseLevel, Schedule
from fromnoise.registry import register


@register("grid", "leading")
def leading(schedule: Schedule, steps: int, offset: int = 0, drop: int = 0, end: int = 0) -> list[NoiseLevel]:
    """Steps 1, 1 + c, 1 + 2c, ... with c = T // (steps + drop), from the last down.

    It starts below t = 1 while x_T is pure noise, which biases the brightness of samples (Lin et al. 2024); ``uniform``
    does not.

    Args:
        schedule: a beta schedule.
        steps: number of steps.
        offset: added to every step.
        drop: number of lowest steps to leave out.
        end: step at which sampling ends: 0 is the clean image, 1 the first noise level.

    Raises:
        ValueError: the schedule is continuous, or has fewer steps.
    """
    total = _total("leading", schedule, steps)
    k = torch.arange(drop, steps + drop, dtype=torch.float64) * (total // (steps + drop)) + 1 + offset
    return _levels(schedule, total, k.flip(0), end)


@register("grid", "linspace")
def linspace(schedule: Schedule, steps: int, drop: int = 0, end: int = 0) -> list[NoiseLevel]:
    """``steps`` + ``drop`` steps equally spaced from T to 1, both included, then the clean image.

    Args:
        schedule: a beta schedule.
        steps: number of steps.
        drop: number of lowest steps to leave out.
        end: as of ``leading``.

    Raises:
        ValueError: as of ``leading``.
    """
    total = _total("linspace", schedule, steps)
    if steps + drop == 1:
        return _levels(schedule, total, torch.ones(1, dtype=torch.float64), end)
    k = torch.linspace(0, total - 1, steps + drop, dtype=torch.float64).round() + 1
    return _levels(schedule, total, k[drop:].flip(0), end)


@register("grid", "trailing")
def trailing(schedule: Schedule, steps: int, end: int = 0) -> list[NoiseLevel]:
    """Steps T, T - T/steps, T - 2T/steps, ...: the steps of ``uniform`` by the name of other libraries.

    Args:
        schedule: of the noise; a beta schedule unless ``end`` is 0.
        steps: number of steps.
        end: as of ``leading``.

    Raises:
        ValueError: as of ``leading``.
    """
    if end == 0:
        return uniform(schedule, steps)
    total = _total("trailing", schedule, steps)
    k = (total - torch.arange(steps, dtype=torch.float64) * total / steps).round()
    return _levels(schedule, total, k, end)


def _total(grid: str, schedule: Schedule, steps: int) -> int:
    """T of a beta schedule with at least ``steps`` steps."""
    if schedule.steps is None:
        raise ValueError(f"grid {grid} needs a beta schedule: choose grid uniform")
    if steps < 1:
        raise ValueError("sampling needs at least one step")
    if steps > schedule.steps:
        raise ValueError(f"steps {steps} is more than the {schedule.steps} of the model: use at most that many")
    return schedule.steps


def _levels(schedule: Schedule, total: int, k: Tensor, end: int) -> list[NoiseLevel]:
    """The levels of decreasing steps ``k``, down to ``end``."""
    if float(k[0]) > total or not bool((k.diff() < 0).all()) or float(k[-1]) < max(end, 1):
        raise ValueError(f"{len(k)} steps of this spacing do not fit into the {total} of the schedule: use fewer")
    if float(k[-1]) > end:
        k = torch.cat([k, k.new_tensor([end])])
    return [schedule.at(t) for t in k / total]
