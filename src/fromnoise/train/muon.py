"""Momentum whose matrices are orthogonalised (Jordan et al. 2024, "Muon")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1 fastest (Jordan)
_ADAM = 0.2  # root mean square of Adam's updates, to which these are scaled (Liu et al. 2025, eq. 4)


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """U V' of each matrix U S V', about: its singular values come to lie in 0.7 .. 1.2.

    Newton-Schulz iteration with a quintic; cheaper than a singular value decomposition and as good here.

    Args:
        matrices: (..., M, N).
        rounds: of the iteration.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled so that a learning rate of Adam's fits.

    A kernel of a convolution (O, I, h, w) is taken as the matrix (O, I h w).
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float = 2e-3, momentum: float = 0.95) -> None:
        """Move parameters of two and more dimensions."""
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step; matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            for p in moved:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in moved]
            gradients = [p.grad for p in moved]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            shapes: dict[tuple[int, int], list[int]] = {}
            for i, update in enumerate(updates):
                shapes.setdefault((len(update), update[0].numel()), []).append(i)
            for shape, members in shapes.items():
                matrices = orthogonal(torch.stack([updates[i].flatten(1) for i in members]))
                size = _ADAM * max(shape) ** 0.5
                for i, matrix in zip(members, matrices, strict=True):
                    moved[i].add_(matrix.view_as(moved[i]), alpha=-group["lr"] * size)
