"""Linear inverse problems: sample images x_0 with A x_0 = y from a model, by a choice of solvers.

A solver is an ``InverseSolver``, registered in the family ``"inverse_solver"``. To add one, put a file into this
folder, or register it in a module of your own:

    @register("inverse_solver", "my-solver")
    @dataclass(frozen=True)
    class MySolver(InverseSolver):
        my_option: int = 1

        def denoiser(self, denoise, operator, y) -> Denoise: ...
"""

from fromnoise.diffusion.inverse.ddnm import DDNM
from fromnoise.diffusion.inverse.inverse_solver import InverseSolver
from fromnoise.diffusion.inverse.mmps import MMPS
from fromnoise.diffusion.inverse.operators import (
    LinearOperator,
    Mask,
    Separable,
    downsampling,
    gaussian_blur,
    grayscale,
)
from fromnoise.diffusion.inverse.pigdm import PiGDM
from fromnoise.diffusion.inverse.repaint import RePaint
from fromnoise.registry import import_submodules

import_submodules(__name__, __path__)

__all__ = [
    "DDNM",
    "MMPS",
    "InverseSolver",
    "LinearOperator",
    "Mask",
    "PiGDM",
    "RePaint",
    "Separable",
    "downsampling",
    "gaussian_blur",
    "grayscale",
]
