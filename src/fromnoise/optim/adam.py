"""Adam and AdamW, in torch's fused implementation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fromnoise.optim.base import Optimizer
from fromnoise.registry import register


@register("optimizer", "adam")
@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015).

    Args:
        betas: decay rates of the first and the second moment, each in [0, 1).
        eps: added to the root of the second moment.

    Raises:
        ValueError: an option is out of range.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_betas_and_eps(self.betas, self.eps)

    def build(self, network: nn.Module, lr: float, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        """One fused Adam."""
        trainable = [p for p in network.parameters() if p.requires_grad]
        return [torch.optim.Adam(trainable, lr=lr, betas=self.betas, eps=self.eps, fused=True)]


@register("optimizer", "adamw")
@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        betas: decay rates of the first and the second moment, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: each step multiplies the weights by 1 - lr * weight_decay.

    Raises:
        ValueError: an option is out of range.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        check_betas_and_eps(self.betas, self.eps)
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, not {self.weight_decay}")

    def build(self, network: nn.Module, lr: float, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        """One fused AdamW."""
        trainable = [p for p in network.parameters() if p.requires_grad]
        options = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return [torch.optim.AdamW(trainable, lr=lr, fused=True, **options)]


def check_betas_and_eps(betas: tuple[float, float], eps: float) -> None:
    """Check Adam's options.

    Raises:
        ValueError: an option is out of range.
    """
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), not {betas}")
    if eps <= 0:
        raise ValueError(f"eps must be greater than 0, not {eps}")
