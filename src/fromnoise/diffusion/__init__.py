"""The mathematics: schedules, targets, denoisers, losses, samplers, guidance, inverse problems, likelihood.

Imports torch and ``fromnoise.registry`` only.
"""

from fromnoise.diffusion import (
    beta_curves,
    inverse,
    karras_schedule,
    likelihood,
    losses,
    noise_conditioning,
    sampling,
    schedules,
    spacings,
    targets,
    time_samplers,
    value_range,
)
from fromnoise.diffusion.denoiser import (
    Denoise,
    Denoiser,
    Prediction,
    null_condition,
    score,
    velocity,
)
from fromnoise.diffusion.guidance import (
    Autoguidance,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Clip,
    IntervalGuidance,
    Threshold,
    Unconditional,
)
from fromnoise.diffusion.karras_schedule import KarrasSchedule
from fromnoise.diffusion.losses import VLB, DiffusionLoss, Hybrid, Regression
from fromnoise.diffusion.noise_conditioning import LogSigmaConditioning, NoiseConditioning, TimestepConditioning
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.samplers import (
    DDIM,
    IPNDM,
    Ancestral,
    DPMSolverPP,
    Euler,
    Heun,
    PredictorCorrector,
    ReverseSDE,
    Sampler,
    UniPC,
)
from fromnoise.diffusion.sampling import Step, initial_noise, sampling_loop
from fromnoise.diffusion.schedules import BetaSchedule, ContinuousCosine, NoiseLevel, Schedule, zero_terminal_snr
from fromnoise.diffusion.targets import EDM, X0, Eps, PosteriorMean, Target, V
from fromnoise.diffusion.time_samplers import Importance, LogNormal, Stratified, TimeSampler, Uniform
from fromnoise.diffusion.weightings import P2, ConstantWeighting, MinSNR, SNRWeighting, Weighting

__all__ = [
    "DDIM",
    "EDM",
    "IPNDM",
    "P2",
    "VLB",
    "X0",
    "Ancestral",
    "Autoguidance",
    "BetaSchedule",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "Clip",
    "ConstantWeighting",
    "ContinuousCosine",
    "DPMSolverPP",
    "Denoise",
    "Denoiser",
    "DiffusionLoss",
    "Eps",
    "Euler",
    "Heun",
    "Hybrid",
    "Importance",
    "IntervalGuidance",
    "KarrasSchedule",
    "LogSigmaConditioning",
    "LogNormal",
    "MinSNR",
    "Noise",
    "NoiseConditioning",
    "NoiseLevel",
    "PosteriorMean",
    "Prediction",
    "PredictorCorrector",
    "Regression",
    "ReverseSDE",
    "SNRWeighting",
    "Sampler",
    "Schedule",
    "Step",
    "Stratified",
    "Stream",
    "Target",
    "Threshold",
    "TimeSampler",
    "TimestepConditioning",
    "UniPC",
    "Unconditional",
    "Uniform",
    "V",
    "Weighting",
    "beta_curves",
    "initial_noise",
    "inverse",
    "karras_schedule",
    "likelihood",
    "losses",
    "noise_conditioning",
    "null_condition",
    "sampling",
    "sampling_loop",
    "schedules",
    "score",
    "spacings",
    "targets",
    "time_samplers",
    "value_range",
    "velocity",
    "zero_terminal_snr",
]
