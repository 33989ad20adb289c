"""The paper: schedules, targets, denoisers, losses, the bound, step rules and the sampling loop.

Imports torch and itself only.
"""

from fromnoise.diffusion.denoiser import Denoise, Denoiser, NoiseConditioning, Prediction, TimestepConditioning
from fromnoise.diffusion.guidance import (
    Autoguidance,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Clip,
    IntervalGuidance,
    Threshold,
    Unconditional,
)
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.samplers.base import DDIM, Ancestral, Sampler
from fromnoise.diffusion.sampling import Step, start, trajectory
from fromnoise.diffusion.schedules import BetaSchedule, NoiseLevel, Schedule
from fromnoise.diffusion.targets import EDM, X0, Eps, PosteriorMean, Target, V

__all__ = [
    "DDIM",
    "X0",
    "Ancestral",
    "Autoguidance",
    "ClassifierGuidance",
    "ClassifierFreeGuidance",
    "Clip",
    "NoiseConditioning",
    "Denoise",
    "Denoiser",
    "Stream",
    "IntervalGuidance",
    "Eps",
    "TimestepConditioning",
    "EDM",
    "NoiseLevel",
    "PosteriorMean",
    "Noise",
    "Prediction",
    "Sampler",
    "Schedule",
    "Step",
    "BetaSchedule",
    "Target",
    "Threshold",
    "Unconditional",
    "V",
    "start",
    "trajectory",
]
