"""Tensors that are sharded over processes (torch's DTensor), treated alike with those that are not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, in the same memory; the tensor itself if it is not sharded."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def local_parts(tensors: Iterable[Any]) -> list[Tensor]:
    """``local`` of each tensor."""
    return [local(t) for t in tensors]


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, gathered from the processes, which all call this; others as they are."""
    full_tensor = getattr(tensor, "full_tensor", None)
    return tensor if full_tensor is None else full_tensor()


def part_like(tensor: Tensor, other: Tensor) -> Tensor:
    """The part of a whole tensor that this process would hold if it were sharded as ``other``; nothing is exchanged.

    Args:
        tensor: equal in all processes, with as many rows as ``other``.
        other: sharded by rows, or not sharded.
    """
    if local(other) is other:
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = other.device_mesh  # pyright: ignore[reportAttributeAccessIssue]
    same = DTensor.from_local(tensor, mesh, [Replicate()], run_check=False)
    return same.redistribute(placements=other.placements).to_local()  # pyright: ignore[reportAttributeAccessIssue]
