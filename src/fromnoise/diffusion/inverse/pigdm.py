"""Pi-GDM: pseudoinverse-guided diffusion."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.guidance.gradient import gradients_enabled
from fromnoise.diffusion.inverse.ddnm import ProjectedDenoiser
from fromnoise.diffusion.inverse.inverse_solver import InverseSolver
from fromnoise.diffusion.inverse.jacobian import Linearization
from fromnoise.diffusion.inverse.operators import LinearOperator
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("inverse_solver", "pigdm")
@dataclass(frozen=True)
class PiGDM(InverseSolver):
    """Pseudoinverse guidance: p(x_0 | x_t) is approximated by N(x0_hat, r_t^2 I) (Song et al. 2023, eqs. 6 to 8).

    x0 + sigma_t^2 / (alpha_t r_t^2) J^T A^+ (y - A x0),   J = d x0 / d x_t
    r_t^2 = sigma_t^2 d^2 / (alpha_t^2 d^2 + sigma_t^2)

    Exact for white Gaussian data of standard deviation d. A step costs one evaluation and one backward pass, about
    three evaluations.

    Args:
        sigma_data: standard deviation d of pixels in [-1, 1]; 1 in the paper.

    Source: Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems".
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data is {self.sigma_data:g}: use a number above 0")

    def denoiser(self, denoise: Denoise, operator: LinearOperator, y: Tensor) -> Denoise:
        """A denoiser guided to agree with ``y``."""
        return PseudoinverseGuidedDenoiser(denoise, operator, y, self.sigma_data)


@dataclass(frozen=True)
class PseudoinverseGuidedDenoiser:
    """The denoiser of ``PiGDM``.

    Args:
        denoise: the model, not clipped: a clipped pixel has no gradient.
        operator: A.
        y: the measurement, (1, ...) or (B, ...).
        sigma_data: as of ``PiGDM``.
    """

    denoise: Denoise
    operator: LinearOperator
    y: Tensor
    sigma_data: float

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction; at alpha_t = 0, where J is 0, that of ``DDNM``."""
        if level.alpha == 0:
            return ProjectedDenoiser(self.denoise, self.operator, self.y)(x, level, cond, previous)
        with gradients_enabled():
            model = Linearization(self.denoise, x, level, cond, previous)
            gradient = model.vjp(self.operator.pseudo_inverse(self.y - self.operator.forward(model.x0)))
        d = self.sigma_data
        weight = (level.alpha**2 * d**2 + level.sigma**2) / (level.alpha * d**2)
        return Prediction(model.x0 + weight * gradient, model.variance_fraction)
