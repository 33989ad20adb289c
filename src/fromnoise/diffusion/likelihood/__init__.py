"""Likelihood: the variational bound, code lengths, the probability-flow ODE and the E-step of mixtures."""

from fromnoise.diffusion.likelihood.code_length import ELBO, SampledTerms, StepProposal, StepTerm
from fromnoise.diffusion.likelihood.ode import ODESolver, ProbabilityFlow, RungeKutta, ScipySolver

__all__ = [
    "ELBO",
    "ODESolver",
    "ProbabilityFlow",
    "RungeKutta",
    "SampledTerms",
    "ScipySolver",
    "StepProposal",
    "StepTerm",
]
