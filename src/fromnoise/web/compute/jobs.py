"""The jobs of the computing process, by name."""

from __future__ import annotations

from collections.abc import Callable

import fromnoise.diffusion  # noqa: F401  registers samplers, guidance and inverse solvers
from fromnoise.web.compute import editing, images, models, sampling, training, understanding

JOBS: dict[str, Callable[..., None]] = {
    "choices": training.choices,
    "describe": models.describe,
    "doctor": training.doctor,
    "sample": sampling.sample,
    "edit": editing.edit,
    "forward": sampling.forward,
    "inspect": training.inspect,
    "nearest": images.nearest,
    "rate": understanding.rate,
    "save": sampling.save,
    "store_image": images.store_image,
    "store_mask": images.store_mask,
    "store_sample": images.store_sample,
}
"""Each takes ``send`` and the values of the job."""
