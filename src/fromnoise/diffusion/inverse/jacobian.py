"""Products with the Jacobian of a denoiser, J = d x0_hat / d x_t."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.guidance.gradient import as_leaf, differentiable_level
from fromnoise.diffusion.schedules import NoiseLevel


class Linearization:
    """A prediction and its Jacobian; make and use it inside ``gradients_enabled()``.

    Attributes:
        x0: the estimate, without gradient.
        variance_fraction: of the prediction, without gradient.
    """

    def __init__(
        self, denoise: Denoise, x: Tensor, level: NoiseLevel, cond: Tensor | None, previous: Tensor | None
    ) -> None:
        """Evaluate the denoiser once; arguments as of ``Denoiser.forward``."""
        self._x = as_leaf(x)
        cond, previous = (None if v is None else v.clone() for v in (cond, previous))
        prediction = denoise(self._x, differentiable_level(level), cond, previous)
        self._x0, fraction = prediction.x0, prediction.variance_fraction
        self.x0 = self._x0.detach()
        self.variance_fraction = None if fraction is None else fraction.detach()

    def vjp(self, v: Tensor) -> Tensor:
        """J^T v, shaped as x; costs one backward pass."""
        return torch.autograd.grad(self._x0, self._x, v.to(self._x0), retain_graph=True)[0]
