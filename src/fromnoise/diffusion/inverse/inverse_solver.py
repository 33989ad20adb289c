"""The interface of solvers of linear inverse problems."""

from __future__ import annotations

from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.inverse.operators import LinearOperator
from fromnoise.diffusion.samplers import Sampler


class InverseSolver:
    """A method that samples x_0 given y = A x_0: it changes the denoiser, the sampler, or both.

    Both methods return their argument unchanged unless a solver overrides them.
    """

    def denoiser(self, denoise: Denoise, operator: LinearOperator, y: Tensor) -> Denoise:
        """The denoiser to sample with: an estimate of E[x_0 | x_t, y] in place of E[x_0 | x_t].

        Args:
            denoise: the model, not clipped.
            operator: A.
            y: the measurement A x_0, (1, ...) for all images of a batch or (B, ...).
        """
        return denoise

    def sampler(self, sampler: Sampler, operator: LinearOperator, y: Tensor) -> Sampler:
        """The sampler to sample with.

        Args:
            sampler: the user's choice.
            operator: A.
            y: the measurement A x_0, (1, ...) or (B, ...).
        """
        return sampler
