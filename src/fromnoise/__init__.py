"""Denoising diffusion probabilistic models: train, sample and judge them with one tool."""

__version__ = "0.2.0"
