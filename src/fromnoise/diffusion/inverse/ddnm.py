"""DDNM: project the estimate of x_0 onto the images that agree with the measurement."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.inverse.inverse_solver import InverseSolver
from fromnoise.diffusion.inverse.operators import LinearOperator
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("inverse_solver", "ddnm")
@dataclass(frozen=True)
class DDNM(InverseSolver):
    """Null-space projection: x0 + A^+ (y - A x0) (Wang et al. 2023, "DDNM", eq. 12).

    The fastest solver: one evaluation a step, no gradient. The unknown part of x_0 depends on y only through the next
    evaluations of the model.
    """

    def denoiser(self, denoise: Denoise, operator: LinearOperator, y: Tensor) -> Denoise:
        """A denoiser whose x_0 agrees with ``y``."""
        return ProjectedDenoiser(denoise, operator, y)


@dataclass(frozen=True)
class ProjectedDenoiser:
    """A denoiser whose estimate is projected onto the images x_0 with A x_0 = y.

    Args:
        denoise: the model.
        operator: A.
        y: the measurement, (1, ...) or (B, ...).
    """

    denoise: Denoise
    operator: LinearOperator
    y: Tensor

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The projected prediction; arguments as of ``Denoiser.forward``."""
        prediction = self.denoise(x, level, cond, previous)
        return Prediction(self.operator.project(prediction.x0, self.y), prediction.variance_fraction)
