"""Gradients inside a sampling loop that runs under ``inference_mode``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fromnoise.diffusion.schedules import NoiseLevel


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Record gradients, even inside ``no_grad`` or ``inference_mode``."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def as_leaf(x: Tensor) -> Tensor:
    """A copy of ``x`` with respect to which gradients can be taken."""
    return x.detach().clone().requires_grad_()


def differentiable_level(level: NoiseLevel) -> NoiseLevel:
    """A copy of ``level`` whose tensors may take part in a gradient; tensors made under ``inference_mode`` may not."""
    return NoiseLevel(level.t.clone(), level.alpha.clone(), level.sigma.clone(), level.logsnr.clone())
