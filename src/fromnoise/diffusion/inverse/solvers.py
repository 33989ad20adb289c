"""Guidance towards images of which something is known: y = A x_0, for any linear operator A."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.guidance.gradient import differentiable, leaf, thawed
from fromnoise.diffusion.inverse.operators import Operator
from fromnoise.diffusion.schedules import NoiseLevel


@dataclass(frozen=True)
class DDNM:
    """x_0 + A^+ (y - A x_0): the nearest image that agrees with y (Wang et al. 2022, "DDNM", eq. 12).

    As cheap as the model alone; what is not seen learns of what is by the model's next look at the whole image only.

    Attributes:
        denoise: the model.
        operator: A.
        y: what is known, (1, ...) for all images of a batch or (B, ...).
    """

    denoise: Denoise
    operator: Operator
    y: Tensor

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The prediction, made to agree."""
        prediction = self.denoise(x, level, cond, previous)
        return Prediction(self.operator.agree(prediction.x0, self.y), prediction.variance_fraction)


@dataclass(frozen=True)
class PiGDM:
    """x_0 + sigma^2/(alpha r^2) J^T A^+ (y - A x_0), J = d x_0 / d x_t (Song et al. 2023, "Pi-GDM", eqs. 6 to 8).

    p(x_0 | x_t) is taken for N(x_0, r^2 I) with r^2 = sigma^2 d^2 / (alpha^2 d^2 + sigma^2), right for white data of
    deviation d. An evaluation and its gradient, about three evaluations' time.

    Attributes:
        denoise: the model.
        operator: A.
        y: what is known.
        deviation: d; the paper's r is that of 1.
    """

    denoise: Denoise
    operator: Operator
    y: Tensor
    deviation: float = 1.0

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction; at pure noise, whose J is 0, as ``DDNM``."""
        if level.alpha == 0:
            return DDNM(self.denoise, self.operator, self.y)(x, level, cond, previous)
        with differentiable():
            seen = _Seen.by(self.denoise, x, level, cond, previous)
            pull = seen.back(self.operator.inverse(self.y - self.operator.forward(seen.prediction.x0.detach())))
        d = self.deviation
        weight = (level.alpha**2 * d**2 + level.sigma**2) / (level.alpha * d**2)
        return Prediction(seen.prediction.x0.detach() + weight * pull, seen.variance_fraction)


@dataclass(frozen=True)
class Posterior:
    """x_0 + C A^T (A C A^T + noise^2 I)^-1 (y - A x_0), with the covariance C = sigma^2/alpha d x_0/d x_t of x_0.

    C is that of p(x_0 | x_t) (Tweedie's formula, second order), known only as a product with a vector, which is a
    gradient; the system is solved by conjugate gradients (Rozet et al. 2024, "Learning diffusion priors from
    observations by expectation maximization", sec. 4.2). It is E[x_0 | x_t, y] where the data are Gaussian, if
    iterations do not lack. An evaluation, ``iterations`` + 1 gradients.

    Attributes:
        denoise: the model; not clipped, for a clipped pixel has no gradient.
        operator: A.
        y: what is known.
        iterations: of the conjugate gradients; more than the dimension of y are of no use.
        noise: deviation of noise in y, in units of x.
    """

    denoise: Denoise
    operator: Operator
    y: Tensor
    iterations: int = 3
    noise: float = 0.0

    def __call__(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """The guided prediction; at pure noise, which says nothing of C, as ``DDNM``."""
        if level.alpha == 0:
            return DDNM(self.denoise, self.operator, self.y)(x, level, cond, previous)
        scale = level.sigma**2 / level.alpha
        with differentiable():
            seen = _Seen.by(self.denoise, x, level, cond, previous)
            prediction = seen.prediction.x0.detach()

            def product(v: Tensor) -> Tensor:
                variance_fraction = scale * seen.back(self.operator.adjoint(v))
                return self.operator.forward(variance_fraction) + self.noise**2 * v

            weights = conjugate_gradients(product, self.y - self.operator.forward(prediction), self.iterations)
            pull = scale * seen.back(self.operator.adjoint(weights))
        return Prediction(prediction + pull, seen.variance_fraction)


@dataclass(frozen=True)
class _Seen:
    """A prediction with the way back to the image that it was made from."""

    at: Tensor
    prediction: Prediction

    @classmethod
    def by(cls, denoise: Denoise, x: Tensor, level: NoiseLevel, cond: Tensor | None, previous: Tensor | None) -> _Seen:
        at = leaf(x)
        cond, previous = (None if v is None else v.clone() for v in (cond, previous))
        return cls(at, denoise(at, thawed(level), cond, previous))

    @property
    def variance_fraction(self) -> Tensor | None:
        return None if self.prediction.variance_fraction is None else self.prediction.variance_fraction.detach()

    def back(self, v: Tensor) -> Tensor:
        """J^T v."""
        return torch.autograd.grad(self.prediction.x0, self.at, v.to(self.prediction.x0), retain_graph=True)[0]


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, iterations: int) -> Tensor:
    """Solve M v = right for each image, M symmetric and positive (Hestenes and Stiefel 1952), from v = 0.

    An image whose M shows itself not positive, as that of a network may, keeps what it has.

    Args:
        product: gives M v.
        right: (B, ...).
        iterations: at most.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))

    v, rest = torch.zeros_like(right), right
    way, size = rest, dot(rest, rest)
    enough = size * torch.finfo(right.dtype).eps ** 2
    going = size > 0
    for _ in range(iterations):
        if not bool(going.any()):
            break
        turned = product(way)
        bend = dot(way, turned)
        going = going & (bend > 0)
        step = torch.where(going, size / torch.where(going, bend, 1.0), 0.0)
        v, rest = v + step * way, rest - step * turned
        new = dot(rest, rest)
        going = going & (new > enough)
        way = rest + torch.where(going, new / torch.where(size > 0, size, 1.0), 0.0) * way
        size = new
    return v
