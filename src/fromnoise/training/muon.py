"""Momentum whose matrices are orthogonalised (Jordan et al. 2024, "Muon")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1 fastest (Jordan)
_ADAM = 0.2  # root mean square of Adam's updates, to which these are scaled (Liu et al. 2025, eq. 4)


def orthogonal(matrices: Sequence[Tensor], rounds: int = 5) -> list[Tensor]:
    """U V' of each matrix U S V', about: its singular values come to lie in 0.7 .. 1.2.

    Newton-Schulz iteration with a quintic: each round multiplies X by a polynomial of X X'. It is done on X X' alone,
    which is small, and X is multiplied once, by the product of the polynomials.

    Args:
        matrices: (M, N) each; those of one shorter side are taken together.
        rounds: of the iteration.
    """
    wide = [m if len(m) <= m.shape[1] else m.mT for m in matrices]
    if torch.get_float32_matmul_precision() != "highest":  # rounded coarsely, small eigenvalues of X X' would explode
        wide = [m.double() for m in wide]
    wide = [m / (m.norm() + 1e-7) for m in wide]
    sides: dict[int, list[int]] = {}
    for i, m in enumerate(wide):
        sides.setdefault(len(m), []).append(i)
    for members in sides.values():
        products = _product(torch.stack([wide[i] @ wide[i].mT for i in members]), rounds)
        for i, product in zip(members, products, strict=True):
            wide[i] = product @ wide[i]
    return [(m if m.shape == g.shape else m.mT).to(g.dtype) for m, g in zip(wide, matrices, strict=True)]


def orthogonal_bf16(matrices: Sequence[Tensor], rounds: int = 5) -> list[Tensor]:
    """As ``orthogonal``, in bfloat16 and to its rounding, where that has units of its own.

    Jordan's own iteration, on X itself: no error of X X' outlives its round, where products of X X' alone would let
    small eigenvalues explode.

    Args:
        matrices: (M, N) each; those of one shape, either way round, are taken together.
        rounds: of the iteration.

    Returns:
        (M, N) each, bfloat16.
    """
    a, b, c = _COEFFICIENTS
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, m in enumerate(matrices):
        shapes.setdefault(tuple(sorted(m.shape)), []).append(i)
    norms = torch._foreach_norm(list(matrices))
    out = list(matrices)
    for shape, members in shapes.items():
        x = torch.empty(len(members), *shape, dtype=torch.bfloat16, device=matrices[0].device)
        for row, i in zip(x, members, strict=True):
            row.copy_((matrices[i] if matrices[i].shape == row.shape else matrices[i].mT) / (norms[i] + 1e-7))
        for _ in range(rounds):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        for row, i in zip(x, members, strict=True):
            out[i] = row if matrices[i].shape == row.shape else row.mT
    return out


def _product(gram: Tensor, rounds: int) -> Tensor:
    """P_rounds ... P_1, P = a + b G + c G^2; after each round G becomes P G P, as everything here commutes."""
    a, b, c = _COEFFICIENTS
    product = None
    for left in reversed(range(rounds)):
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        product = p if product is None else p @ product
        if left:
            gram = p @ gram @ p
    assert product is not None
    return product


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled so that a learning rate of Adam's fits.

    A kernel of a convolution (O, I, h, w) is taken as the matrix (O, h w I), which channels_last holds in this order.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 2e-3, momentum: float = 0.95, *, bf16: bool = False
    ) -> None:
        """Move parameters of two and more dimensions; ``bf16`` orthogonalises in bfloat16."""
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})
        self._orthogonal = orthogonal_bf16 if bf16 else orthogonal

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step."""
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
            matrices = self._orthogonal([_rows(update).flatten(1) for update in updates])
            for weight, matrix in zip(moved, matrices, strict=True):
                size = _ADAM * max(matrix.shape) ** 0.5
                into = _rows(weight)
                into.add_(matrix.view(into.shape), alpha=-group["lr"] * size)


def _rows(kernel: Tensor) -> Tensor:
    """(O, I, h, w) as (O, h, w, I), which share their numbers; a matrix as it is."""
    return kernel.movedim(1, -1)
