"""Sampling: the one place where a model, a sampler, guidance and a condition become images.

``sample_steps`` is the loop over batches for a whole configuration; ``Pipeline`` is its interface for Python programs.
"""

from fromnoise.pipeline.autoencoder import Autoencoder
from fromnoise.pipeline.forward import FORWARD_TIMES, forward_process
from fromnoise.pipeline.pipeline import Pipeline, label_text
from fromnoise.pipeline.sample_step import SampleStep
from fromnoise.pipeline.sampling_run import Samples, SamplingRun, check_finite, collect, sample_steps

__all__ = [
    "FORWARD_TIMES",
    "Autoencoder",
    "Pipeline",
    "SampleStep",
    "Samples",
    "SamplingRun",
    "check_finite",
    "collect",
    "forward_process",
    "label_text",
    "sample_steps",
]
