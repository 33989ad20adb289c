"""The networks: ``network(x, clock, cond)``, noisy images and time in, a prediction of the same size out.

``UNet`` is the general one; ``PulferUNet`` and ``SimpleUNet`` are those of two tutorials, layer for layer. They
import torch and nothing else of the package.
"""

from fromnoise.networks.noisy_classifier import NoisyClassifier
from fromnoise.networks.tutorial import PulferUNet, SimpleUNet
from fromnoise.networks.unet import UNet, attention_levels

__all__ = ["NoisyClassifier", "PulferUNet", "SimpleUNet", "UNet", "attention_levels"]
