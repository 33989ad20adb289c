"""Muon: momentum whose update matrices are orthogonalized (Jordan et al. 2024).

Kept here because ``torch.optim.Muon`` takes matrices only, and most parameters of a U-Net are convolution kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.optim.adam import check_betas_and_eps
from fromnoise.optim.base import Optimizer
from fromnoise.optim.parts import local, local_parts, part_like, whole
from fromnoise.registry import register

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan's quintic a x + b x^3 + c x^5, tuned for few iterations
_WHOLE_ELEMENTS = 1 << 24  # of sharded matrices that are gathered together, at most, where one is not larger
_ADAM_RMS = 0.2  # typical root mean square of Adam's updates, to which Muon's are scaled (Liu et al. 2025, eq. 4)


@register("optimizer", "muon")
@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon for weight matrices and convolution kernels, Adam for biases, norms and embeddings.

    Updates have the size of Adam's (Liu et al. 2025, eq. 4), so learning rates of Adam fit.

    Args:
        momentum: decay rate of the Nesterov momentum of Muon, in [0, 1).
        betas: decay rates of the two moments of Adam, each in [0, 1).
        eps: of Adam, added to the root of the second moment.

    Raises:
        ValueError: an option is out of range.
    """

    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_betas_and_eps(self.betas, self.eps)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {self.momentum}")

    def build(self, network: nn.Module, lr: float, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        """Muon for parameters with two or more dimensions that are no embeddings, Adam for the others."""
        trainable = [p for p in network.parameters() if p.requires_grad]
        # an embedding is a table of vectors, not a linear map
        embeddings = {p for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        matrices = [p for p in trainable if p.ndim > 1 and p not in embeddings]
        others = [p for p in trainable if p not in set(matrices)]
        optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            optimizers.append(MuonOptimizer(matrices, lr, self.momentum, bf16=dtype == torch.bfloat16))
        if others:
            optimizers.append(torch.optim.Adam(others, lr=lr, betas=self.betas, eps=self.eps, fused=True))
        return optimizers


class MuonOptimizer(torch.optim.Optimizer):
    """W <- W - lr * 0.2 sqrt(max(M, N)) * orthogonalize(Nesterov momentum), for W of shape (M, N).

    A convolution kernel (O, I, h, w) is the matrix (O, h w I), which is its order in memory in channels_last.

    Of sharded parameters the momentum is sharded too; its matrices are gathered for the orthogonalization, some at a
    time, and every process computes them all, as without sharding.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 2e-3, momentum: float = 0.95, *, bf16: bool = False
    ) -> None:
        """Optimize parameters that have two or more dimensions.

        Args:
            parameters: matrices and convolution kernels.
            lr: learning rate.
            momentum: decay rate of the Nesterov momentum.
            bf16: orthogonalize in bfloat16.
        """
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})
        self._orthogonalize = orthogonalize_bf16 if bf16 else orthogonalize

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Take one step; ``closure`` is ignored."""
        for group in self.param_groups:
            updated = [p for p in group["params"] if p.grad is not None]
            if not updated:
                continue
            for p in updated:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            for some in _portions(updated):
                self._update(some, group["lr"], group["momentum"])

    def _update(self, weights: list[Tensor], lr: float, momentum: float) -> None:
        """Update momenta and weights from the gradients."""
        momenta = [self.state[p]["momentum"] for p in weights]
        gradients = [p.grad for p in weights if p.grad is not None]
        torch._foreach_lerp_(local_parts(momenta), local_parts(gradients), 1 - momentum)
        if local(weights[0]) is weights[0]:
            nesterov = list(torch._foreach_lerp(gradients, momenta, momentum))
        else:
            nesterov = [whole(torch.lerp(g, m, momentum)) for g, m in zip(gradients, momenta, strict=True)]
        matrices = self._orthogonalize([_channels_last_view(update).flatten(1) for update in nesterov])
        for weight, update, matrix in zip(weights, nesterov, matrices, strict=True):
            scale = _ADAM_RMS * max(matrix.shape) ** 0.5
            rows = part_like(matrix.view(_channels_last_view(update).shape), weight)
            _channels_last_view(local(weight)).add_(rows, alpha=-lr * scale)


def _portions(weights: list[Tensor]) -> Iterator[list[Tensor]]:
    """All weights at once; of sharded ones as many as are gathered together."""
    some: list[Tensor] = []
    for weight in weights:
        sharded = local(weight) is not weight
        if some and sharded and sum(w.numel() for w in some) + weight.numel() > _WHOLE_ELEMENTS:
            yield some
            some = []
        some.append(weight)
    yield some


def orthogonalize(matrices: Sequence[Tensor], iterations: int = 5) -> list[Tensor]:
    """Approximate U V' of each matrix U S V'.

    Newton-Schulz iteration with a quintic: each iteration multiplies X by a polynomial in X X'. All polynomials are
    computed from the small matrix X X' alone; X is multiplied once, by their product. Five iterations bring singular
    values to about 0.7 .. 1.2; those far below the largest stay smaller, as the smallest of square Gaussian matrices.

    Args:
        matrices: (M, N) each; those with the same shorter side are processed as one batch.
        iterations: number of Newton-Schulz iterations.

    Returns:
        (M, N) each, in the dtype of its input.
    """
    wide = [m if len(m) <= m.shape[1] else m.mT for m in matrices]
    # with reduced matmul precision rounding makes small eigenvalues of X X' explode
    if torch.get_float32_matmul_precision() != "highest":
        wide = [m.double() for m in wide]
    wide = [m / (m.norm() + 1e-7) for m in wide]
    by_side: dict[int, list[int]] = {}
    for i, m in enumerate(wide):
        by_side.setdefault(len(m), []).append(i)
    for members in by_side.values():
        products = _polynomial_product(torch.stack([wide[i] @ wide[i].mT for i in members]), iterations)
        for i, product in zip(members, products, strict=True):
            wide[i] = product @ wide[i]
    return [(m if m.shape == g.shape else m.mT).to(g.dtype) for m, g in zip(wide, matrices, strict=True)]


def orthogonalize_bf16(matrices: Sequence[Tensor], iterations: int = 5) -> list[Tensor]:
    """``orthogonalize`` in bfloat16, for hardware with bfloat16 units.

    Jordan's original iteration on X itself: an error of X X' does not outlive its iteration, while products of X X'
    alone would let small eigenvalues explode in bfloat16.

    Args:
        matrices: (M, N) each; those of one shape or its transpose are processed as one batch.
        iterations: number of Newton-Schulz iterations.

    Returns:
        (M, N) each, bfloat16.
    """
    a, b, c = _COEFFICIENTS
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, m in enumerate(matrices):
        by_shape.setdefault(tuple(sorted(m.shape)), []).append(i)
    norms = torch._foreach_norm(list(matrices))
    out = list(matrices)
    for shape, members in by_shape.items():
        x = torch.empty(len(members), *shape, dtype=torch.bfloat16, device=matrices[0].device)
        for row, i in zip(x, members, strict=True):
            row.copy_((matrices[i] if matrices[i].shape == row.shape else matrices[i].mT) / (norms[i] + 1e-7))
        for _ in range(iterations):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        for row, i in zip(x, members, strict=True):
            out[i] = row if matrices[i].shape == row.shape else row.mT
    return out


def _polynomial_product(gram: Tensor, iterations: int) -> Tensor:
    """P_n ... P_1 with P = a + b G + c G^2; G becomes P G P after each iteration, since all these matrices commute."""
    a, b, c = _COEFFICIENTS
    product = None
    for remaining in reversed(range(iterations)):
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        product = p if product is None else p @ product
        if remaining:
            gram = p @ gram @ p
    assert product is not None
    return product


def _channels_last_view(kernel: Tensor) -> Tensor:
    """(O, I, h, w) as (O, h, w, I), without a copy; a matrix unchanged."""
    return kernel.movedim(1, -1)
