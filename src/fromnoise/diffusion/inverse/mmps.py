"""MMPS: moment matching posterior sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.guidance.gradient import gradients_enabled
from fromnoise.diffusion.inverse.ddnm import ProjectedDenoiser
from fromnoise.diffusion.inverse.inverse_solver import InverseSolver
from fromnoise.diffusion.inverse.jacobian import Linearization
from fromnoise.diffusion.inverse.operators import LinearOperator
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@register("inverse_solver", "mmps")
@dataclass(frozen=True)
class MMPS(InverseSolver):
    """Moment matching: p(x_0 | x_t) is approximated by N(x0_hat, C_t) with Tweedie's covariance C_t.

    x0 + C_t A^T (A C_t A^T + noise_std^2 I)^-1 (y - A x0),   C_t = sigma_t^2 / alpha_t d x0 / d x_t

    Products with C_t are backward passes, and the linear system is solved by conjugate gradients. For Gaussian data and
    enough iterations this is E[x_0 | x_t, y]. A step costs one evaluation and ``iterations`` + 1 backward passes.

    Args:
        iterations: conjugate gradient iterations; more than the dimension of y have no effect.
        noise_std: standard deviation of the noise in y, in units of x.

    Source: Rozet et al. 2024, "Learning diffusion priors from observations by expectation maximization", sec. 4.2.
    """

    iterations: int = 3
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations}: use 1 or more")
        if self.noise_std < 0:
            raise ValueError(f"noise_std is {self.noise_std:g}: use 0 or more")

    def denoiser(self, denoise: Denoise, operator: LinearOperator, y: Tensor) -> Denoise:
        """An approximation of E[x_0 | x_t, y]."""
        return MomentMatchingDenoiser(denoise, operator, y, self.iterations, self.noise_std)


@dataclass(frozen=True)
class MomentMatchingDenoiser:
    """The denoiser of ``MMPS``.

    Args:
        denoise: the model, not clipped: a clipped pixel has no gradient.
        operator: A.
        y: the measurement, (1, ...) or (B, ...).
        iterations: as of ``MMPS``.
        noise_std: as of ``MMPS``.
    """

    denoise: Denoise
    operator: LinearOperator
    y: Tensor
    iterations: int
    noise_std: float

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction; at alpha_t = 0, where C_t is unknown, that of ``DDNM``."""
        if level.alpha == 0:
            return ProjectedDenoiser(self.denoise, self.operator, self.y)(x, level, cond, previous)
        scale = level.sigma**2 / level.alpha
        with gradients_enabled():
            model = Linearization(self.denoise, x, level, cond, previous)

            def product(v: Tensor) -> Tensor:
                covariance_v = scale * model.vjp(self.operator.adjoint(v))
                return self.operator.forward(covariance_v) + self.noise_std**2 * v

            weights = conjugate_gradients(product, self.y - self.operator.forward(model.x0), self.iterations)
            change = scale * model.vjp(self.operator.adjoint(weights))
        return Prediction(model.x0 + change, model.variance_fraction)


def conjugate_gradients(product: Callable[[Tensor], Tensor], rhs: Tensor, iterations: int) -> Tensor:
    """Solve M v = rhs for each image, M symmetric positive definite, from v = 0 (Hestenes and Stiefel 1952).

    The Jacobian of a network need not be positive definite: an image for which a direction of negative curvature is
    found keeps its solution so far.

    Args:
        product: gives M v.
        rhs: (B, ...).
        iterations: at most so many.

    Returns:
        v, shaped as ``rhs``.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))

    v, residual = torch.zeros_like(rhs), rhs
    direction, norm = residual, dot(residual, residual)
    tolerance = norm * torch.finfo(rhs.dtype).eps ** 2
    active = norm > 0
    for _ in range(iterations):
        if not bool(active.any()):
            break
        m_direction = product(direction)
        curvature = dot(direction, m_direction)
        active = active & (curvature > 0)
        step = torch.where(active, norm / torch.where(active, curvature, 1.0), 0.0)
        v, residual = v + step * direction, residual - step * m_direction
        new_norm = dot(residual, residual)
        active = active & (new_norm > tolerance)
        direction = residual + torch.where(active, new_norm / torch.where(norm > 0, norm, 1.0), 0.0) * direction
        norm = new_norm
    return v
