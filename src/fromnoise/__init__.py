"""Denoising diffusion probabilistic models: train, sample and evaluate them with one tool.

    import fromnoise as fn

    model = fn.load("runs/digits")
    images = model.sample(16, sampler="dpmpp-2m", steps=20, seed=0)

Names are imported when they are first used, so that ``import fromnoise`` takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_MEMBERS = {
    "Denoiser": "fromnoise.diffusion",
    "Pipeline": "fromnoise.pipeline",
    "Trainer": "fromnoise.training.trainer",
    "UserError": "fromnoise.utils.errors",
    "as_data": "fromnoise.data.convert",
    "distill": "fromnoise.api",
    "evaluate": "fromnoise.evaluation.compare",
    "load": "fromnoise.api",
    "load_autoencoder": "fromnoise.api",
    "push": "fromnoise.api",
    "register": "fromnoise.registry",
    "sample": "fromnoise.api",
    "save": "fromnoise.api",
    "save_images": "fromnoise.reporting.image_io",
    "tune": "fromnoise.api",
}
_MODULES = {
    "data": "fromnoise.data",
    "diffusion": "fromnoise.diffusion",
    "evaluation": "fromnoise.evaluation",
    "guidance": "fromnoise.diffusion.guidance",
    "inverse": "fromnoise.diffusion.inverse",
    "losses": "fromnoise.diffusion.losses",
    "networks": "fromnoise.networks",
    "samplers": "fromnoise.diffusion.samplers",
    "schedules": "fromnoise.diffusion.schedules",
    "targets": "fromnoise.diffusion.targets",
    "time_samplers": "fromnoise.diffusion.time_samplers",
    "weightings": "fromnoise.diffusion.weightings",
}

if TYPE_CHECKING:
    from fromnoise import data, diffusion, evaluation, networks
    from fromnoise.api import distill, load, load_autoencoder, push, sample, save, tune
    from fromnoise.data.convert import as_data
    from fromnoise.diffusion import (
        Denoiser,
        guidance,
        inverse,
        losses,
        samplers,
        schedules,
        targets,
        time_samplers,
        weightings,
    )
    from fromnoise.evaluation.compare import evaluate
    from fromnoise.pipeline import Pipeline
    from fromnoise.registry import register
    from fromnoise.reporting.image_io import save_images
    from fromnoise.training.trainer import Trainer
    from fromnoise.utils.errors import UserError

__all__ = [
    "Denoiser",
    "Pipeline",
    "Trainer",
    "UserError",
    "as_data",
    "data",
    "diffusion",
    "distill",
    "evaluate",
    "evaluation",
    "guidance",
    "inverse",
    "load",
    "load_autoencoder",
    "losses",
    "networks",
    "push",
    "register",
    "sample",
    "samplers",
    "save",
    "save_images",
    "schedules",
    "targets",
    "time_samplers",
    "tune",
    "weightings",
]


def __getattr__(name: str) -> Any:
    if name in _MEMBERS:
        return getattr(importlib.import_module(_MEMBERS[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'fromnoise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
