"""A linear multistep sampler whose times and coefficients are learned for one model and one number of steps.

Not registered by name: its numbers belong to the model in whose file they are (``fromnoise tune``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.samplers.base import DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.samplers.multistep import is_finite, lambda_difference
from fromnoise.diffusion.schedules import NoiseLevel, Schedule

LARGEST = 1e4
"""Largest absolute value of a learned coefficient."""


@dataclass(frozen=True)
class TunedSteps:
    """The learned numbers for K steps.

    Attributes:
        times: t_0 = 1 > t_1 > ... > t_K = 0 (K + 1).
        network_times: the time that the network is given in each step, in (0, 1] (K).
        keep: a_i, the coefficient of x in each step (K).
        weights: w_ij, the coefficients of the predictions x0_hat_0 .. x0_hat_i in step i (K rows of 1 .. K numbers).
        guidance: guidance scale of the predictions.
    """

    times: tuple[float, ...]
    network_times: tuple[float, ...]
    keep: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    guidance: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: there are too many or too few, or one is out of range.
        """
        steps = len(self.keep)
        if steps < 1 or len(self.times) != steps + 1 or len(self.network_times) != steps:
            raise ValueError("the numbers of times and coefficients of tuned steps disagree")
        if [len(row) for row in self.weights] != list(range(1, steps + 1)):
            raise ValueError("the rows of weights of tuned steps must have 1, 2, ... numbers")
        if not all(early > late for early, late in pairwise(self.times)) or self.times[0] != 1 or self.times[-1] != 0:
            raise ValueError("the times of tuned steps must decrease from 1 to 0")
        if not all(0 < t <= 1 for t in self.network_times):
            raise ValueError("the network times of tuned steps must lie in (0, 1]")
        values = [*self.keep, *(w for row in self.weights for w in row)]
        if not all(math.isfinite(v) and abs(v) <= LARGEST for v in values):
            raise ValueError("a coefficient of tuned steps is out of range")
        if not 0 <= self.guidance < math.inf:
            raise ValueError("the guidance scale of tuned steps is out of range")

    @property
    def count(self) -> int:
        """K."""
        return len(self.keep)

    def levels(self, schedule: Schedule) -> list[NoiseLevel]:
        """The noise levels of the K + 1 times."""
        return [schedule.at(t) for t in self.times]

    def sampler(self, schedule: Schedule) -> TunedSampler:
        """The sampler that makes these steps."""
        return TunedSampler(
            tuple(schedule.at(t) for t in self.network_times),
            torch.tensor(self.keep, dtype=torch.float64),
            [torch.tensor(row, dtype=torch.float64) for row in self.weights],
        )


@dataclass(frozen=True, eq=False)
class TunedSampler(Sampler):
    """Linear multistep sampling with learned coefficients, one evaluation a step.

        x_{i+1} = a_i x_i + sum_{j <= i} w_ij x0_hat_j

    x0_hat_j is the prediction at x_j for the network's own level of step j. Every deterministic multistep sampler is of
    this form. Times were learned by Tong et al. 2025 ("LD3"), coefficients by Frankel et al. 2025 ("S4S").

    Attributes:
        network_levels: the level that the network is given in each step (K).
        keep: a_i, float64 (K,).
        weights: w_ij, float64, row i of shape (i + 1,).
    """

    network_levels: Sequence[NoiseLevel]
    keep: Tensor
    weights: Sequence[Tensor]

    @property
    def min_steps(self) -> int:
        """K: the coefficients are those of one number of steps."""
        return len(self.keep)

    def start(self) -> tuple[Tensor, ...]:
        """No predictions."""
        return ()

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step; its number is that of the predictions in ``memory``. See ``Sampler.step``.

        Raises:
            ValueError: there are more steps than coefficients.
        """
        index = len(memory)
        if index >= len(self.keep):
            raise ValueError(f"this sampler was tuned for {len(self.keep)} steps, not more")
        prediction = denoise(x, self.network_levels[index])
        predictions = (*memory, prediction.x0)
        new = self.keep[index] * x
        for weight, x0 in zip(self.weights[index], predictions, strict=True):
            new = new + weight * x0
        return new, prediction, predictions


def multistep_coefficients(levels: Sequence[NoiseLevel]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The coefficients of DPM-Solver++(2M) on a grid, as functions of its levels (Lu et al. 2022, alg. 2).

    Args:
        levels: K + 1, the last one t = 0.

    Returns:
        a_i, and for each step the weights w_i0 .. w_ii in units of alpha_s - a_i alpha_t, the weight of a constant
        prediction: the last two of a row are 1 + 1/(2 r) and -1/(2 r), with r = h_{i-1} / h_i.
    """
    keep, rows = [], []
    one = torch.ones((), dtype=torch.float64)
    for i, (level_t, level_s) in enumerate(pairwise(levels)):
        keep.append(level_s.sigma / level_t.sigma)
        row = [torch.zeros_like(one) for _ in range(i)] + [one]
        if i and is_finite(level_s) and is_finite(levels[i - 1]):
            half = lambda_difference(level_t, level_s) / lambda_difference(levels[i - 1], level_t) / 2
            row[i], row[i - 1] = one + half, -half
        rows.append(row)
    return keep, rows
