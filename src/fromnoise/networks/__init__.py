"""Networks: ``network(x, t, cond)`` maps noisy images and the timestep to a prediction of the same height and width.

``UNet`` is the general network; ``ADMUNet``, ``DiffusersUNet``, ``LucidrainsUNet``, ``PulferUNet`` and ``SimpleUNet``
are networks of published programs, layer for layer, as is the autoencoder ``DiffusersAutoencoder``. Each is registered
under its name, and every module of this package is imported here, so a network in a new file is available at once.
Besides torch, the package imports the registry alone.
"""

from fromnoise.networks.adm_unet import ADMUNet
from fromnoise.networks.diffusers_autoencoder import DiffusersAutoencoder
from fromnoise.networks.diffusers_unet import DiffusersUNet
from fromnoise.networks.lucidrains_unet import LucidrainsUNet
from fromnoise.networks.noisy_classifier import NoisyClassifier
from fromnoise.networks.tutorial import PulferUNet, SimpleUNet
from fromnoise.networks.unet import UNet, attention_levels
from fromnoise.registry import import_submodules

import_submodules(__name__, __path__)

__all__ = [
    "ADMUNet",
    "DiffusersAutoencoder",
    "DiffusersUNet",
    "LucidrainsUNet",
    "NoisyClassifier",
    "PulferUNet",
    "SimpleUNet",
    "UNet",
    "attention_levels",
]
