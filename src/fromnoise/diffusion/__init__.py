"""The paper: schedules, targets, denoisers, losses, the bound, step rules and the sampling loop.

Imports torch and itself only.
"""

from fromnoise.diffusion.denoiser import Clock, Denoise, Denoiser, Index, Prediction
from fromnoise.diffusion.guidance import Autoguidance, ByClassifier, ClassifierFree, Clip, During, Threshold, Untold
from fromnoise.diffusion.rng import Draw, Noise
from fromnoise.diffusion.samplers.base import DDIM, Ancestral, Rule
from fromnoise.diffusion.sampling import Step, start, trajectory
from fromnoise.diffusion.schedules import Level, Schedule, Table
from fromnoise.diffusion.targets import X0, Eps, Karras, Mean, Target, V

__all__ = [
    "DDIM",
    "X0",
    "Ancestral",
    "Autoguidance",
    "ByClassifier",
    "ClassifierFree",
    "Clip",
    "Clock",
    "Denoise",
    "Denoiser",
    "Draw",
    "During",
    "Eps",
    "Index",
    "Karras",
    "Level",
    "Mean",
    "Noise",
    "Prediction",
    "Rule",
    "Schedule",
    "Step",
    "Table",
    "Target",
    "Threshold",
    "Untold",
    "V",
    "start",
    "trajectory",
]
