"""The free numbers of a tuned sampler, as deviations from DPM-Solver++(2M)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fromnoise.diffusion.samplers.tuned import TunedSampler, TunedSteps, multistep_coefficients
from fromnoise.diffusion.schedules import NoiseLevel, Schedule

_LEAST = 1e-6
"""Smallest time of a step."""


class StepParameters(nn.Module):
    """Unconstrained numbers from which levels and coefficients follow; all zero is DPM-Solver++(2M) on a grid.

    time t_i = 1 - sum of the first i softmax terms; network time t_i e^(shift_i);
    a_i = sigma_s / sigma_t (1 + keep_i); w_ij = (alpha_s - sigma_s / sigma_t alpha_t) (c_ij + weights_ij)

    with the coefficients c_ij of DPM-Solver++(2M), which follow the times.
    """

    def __init__(self, schedule: Schedule, levels: Sequence[NoiseLevel]) -> None:
        """Begin with a grid.

        Args:
            schedule: of the noise.
            levels: K + 1 levels from t = 1 to t = 0.

        Raises:
            ValueError: the grid begins or ends elsewhere.
        """
        super().__init__()
        times = torch.stack([level.t for level in levels])
        if float(times[0]) != 1 or float(times[-1]) != 0:
            raise ValueError("tuning needs a grid from t = 1 to t = 0")
        self.schedule, self.steps = schedule, len(levels) - 1

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=torch.float64))

        self.spacing = nn.Parameter((-times.diff()).log())
        self.shift, self.keep = zeros(self.steps), zeros(self.steps)
        self.weights = zeros(self.steps, self.steps)

    def times(self) -> Tensor:
        """t_0 = 1 to t_K = 0, float64 (K + 1,)."""
        inner = 1 - torch.softmax(self.spacing, 0).cumsum(0)[:-1]
        return torch.cat([inner.new_ones(1), inner.clamp(min=_LEAST), inner.new_zeros(1)])

    def network_times(self, times: Tensor) -> Tensor:
        """The times that the network is given, float64 (K,)."""
        return (times[:-1] * self.shift.exp()).clamp(_LEAST, 1)

    def coefficients(self, levels: Sequence[NoiseLevel]) -> tuple[Tensor, list[Tensor]]:
        """a_i (K,) and the rows w_i0 .. w_ii, float64."""
        keep, rows = multistep_coefficients(levels)
        scales = [s.alpha - a * t.alpha for a, t, s in zip(keep, levels[:-1], levels[1:], strict=True)]
        weights = [
            scale * (torch.stack(row) + self.weights[i, : i + 1])
            for i, (scale, row) in enumerate(zip(scales, rows, strict=True))
        ]
        return torch.stack(keep) * (1 + self.keep), weights

    def sampler(self) -> tuple[TunedSampler, list[NoiseLevel]]:
        """The sampler of these numbers and its levels, through which gradients flow."""
        times = self.times()
        levels = [self.schedule.at(t) for t in times]
        network_levels = [self.schedule.at(t) for t in self.network_times(times)]
        return TunedSampler(network_levels, *self.coefficients(levels)), levels

    @torch.no_grad()
    def frozen(self) -> TunedSteps:
        """The numbers that a model keeps.

        Raises:
            ValueError: they are out of range.
        """
        times = self.times()
        keep, weights = self.coefficients([self.schedule.at(t) for t in times])
        return TunedSteps(
            tuple(times.tolist()),
            tuple(self.network_times(times).tolist()),
            tuple(keep.tolist()),
            tuple(tuple(row.tolist()) for row in weights),
        )
