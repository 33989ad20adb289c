"""Gradients in the midst of a sampling loop, which else takes none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fromnoise.diffusion.schedules import NoiseLevel


@contextmanager
def differentiable() -> Iterator[None]:
    """Record gradients, even under ``no_grad`` or ``inference_mode``."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def leaf(x: Tensor) -> Tensor:
    """A copy with respect to which gradients are taken."""
    return x.detach().clone().requires_grad_()


def thawed(level: NoiseLevel) -> NoiseLevel:
    """The level as tensors that gradients may go through; those made under ``inference_mode`` may not."""
    return NoiseLevel(level.t.clone(), level.alpha.clone(), level.sigma.clone(), level.logsnr.clone())
