"""The paper: schedules, targets, denoisers, losses, the bound, step rules and the sampling loop.

Imports torch and itself only.
"""

from fromnoise.diffusion.denoiser import Clock, Denoise, Denoiser, Index, Prediction
from fromnoise.diffusion.guidance import ClassifierFree, Clip
from fromnoise.diffusion.noise import Draw, Noise
from fromnoise.diffusion.rules import DDIM, Ancestral, Rule
from fromnoise.diffusion.sampler import Step, start, trajectory
from fromnoise.diffusion.schedule import Level, Schedule, Table
from fromnoise.diffusion.target import X0, Eps, Mean, Target, V

__all__ = [
    "DDIM",
    "X0",
    "Ancestral",
    "ClassifierFree",
    "Clip",
    "Clock",
    "Denoise",
    "Denoiser",
    "Draw",
    "Eps",
    "Index",
    "Level",
    "Mean",
    "Noise",
    "Prediction",
    "Rule",
    "Schedule",
    "Step",
    "Table",
    "Target",
    "V",
    "start",
    "trajectory",
]
