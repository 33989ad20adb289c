"""Samplers, one file each; a new file in this folder that registers a sampler is all that it takes to add one."""

from fromnoise.diffusion.samplers.ancestral import Ancestral
from fromnoise.diffusion.samplers.base import DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.samplers.ddim import DDIM, Euler
from fromnoise.diffusion.samplers.dpm_solver import DPMSolverPP
from fromnoise.diffusion.samplers.heun import Heun
from fromnoise.diffusion.samplers.ipndm import IPNDM
from fromnoise.diffusion.samplers.multistep import MultistepSampler
from fromnoise.diffusion.samplers.predictor_corrector import PredictorCorrector
from fromnoise.diffusion.samplers.reverse_sde import ReverseSDE
from fromnoise.diffusion.samplers.tuned import TunedSampler, TunedSteps
from fromnoise.diffusion.samplers.unipc import UniPC
from fromnoise.registry import import_submodules

__all__ = [
    "DDIM",
    "IPNDM",
    "Ancestral",
    "DPMSolverPP",
    "DenoiseFn",
    "Euler",
    "Heun",
    "MultistepSampler",
    "NoiseFn",
    "PredictorCorrector",
    "ReverseSDE",
    "Sampler",
    "TunedSampler",
    "TunedSteps",
    "UniPC",
]

import_submodules(__name__, __path__)
