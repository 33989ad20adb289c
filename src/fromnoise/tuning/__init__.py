"""Learned time steps and coefficients of the sampler, for one model and one number of steps."""

from fromnoise.tuning.learning import Tuned, TuningStep, tune
from fromnoise.tuning.run import last_report, tune_run

__all__ = ["Tuned", "TuningStep", "last_report", "tune", "tune_run"]
