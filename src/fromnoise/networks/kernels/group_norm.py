"""Group normalisation, what the time says, and SiLU in one visit to memory, on CPUs; see ``norm.c``."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.networks.kernels.build import enabled, library

_CHANNELS = 4096  # more would not fit the stack of a thread
_LIBRARIES = {torch.float32: (), torch.bfloat16: ("BF16",)}


class _Norm(ctypes.Structure):
    """As ``Norm`` of norm.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "plus", "scale", "shift", "mean", "inverse")),
        *((n, ctypes.c_int64) for n in ("batch", "pixels", "channels", "groups", "plus_stride", "told_stride")),
        ("eps", ctypes.c_float),
        ("act", ctypes.c_int32),
    ]


@dataclass(frozen=True)
class NormOptions:
    """What stays the same: the number of groups, eps, and whether SiLU follows."""

    groups: int
    eps: float
    act: bool


def usable(x: Tensor) -> bool:
    """Whether ``fused`` can be used: enabled, on a CPU, channels_last, an image for each thread, not being traced."""
    return (
        enabled()
        and not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in _LIBRARIES
        and x.is_contiguous(memory_format=torch.channels_last)
        and len(x) >= torch.get_num_threads()
        and x.shape[1] <= _CHANNELS
        and x.numel() > 0
        and library("norm", *_LIBRARIES[x.dtype]) is not None
    )


def fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    options: NormOptions,
    plus: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """act((1 + scale) group_norm(x + plus) + shift), act SiLU or nothing; ``usable(x)`` must hold.

    Args:
        x: (B, C, H, W), float32 or bfloat16, channels_last; the result is alike.
        weight: (C,).
        bias: (C,).
        how: what stays the same.
        plus: (B, C); None for 0.
        scale: (B, C), given together with ``shift`` or not at all.
        shift: (B, C).
    """
    told = [v if v is None else v.float().contiguous() for v in (plus, scale, shift)]
    return _Fused.apply(x, weight.float(), bias.float(), *told, options)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        plus: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        options: NormOptions,
    ) -> Tensor:
        mean, inverse = (x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2))
        out = torch.empty_like(x, memory_format=torch.channels_last)
        told = (weight, bias, plus, scale, shift)
        _library(x).forward(ctypes.byref(_norm(x, told, mean, inverse, options)), ctypes.c_void_p(out.data_ptr()))
        ctx.save_for_backward(x, *told, mean, inverse)
        ctx.options = options
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, plus, scale, shift, mean, inverse = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
        into = torch.empty_like(x, memory_format=torch.channels_last)
        first, second = torch.empty_like(mean), torch.empty_like(mean)
        third = torch.empty_like(mean) if plus is not None else None
        norm = _norm(x, (weight, bias, plus, scale, shift), mean, inverse, ctx.options)
        pointers = [ctypes.c_void_p(_at(v)) for v in (grad, into, first, second, third)]
        if _library(x).backward(ctypes.byref(norm), *pointers):
            raise MemoryError("no memory left for the gradient of a normalisation")
        if scale is None:
            return into, second.sum(0), first.sum(0), third, None, None, None
        gained = scale + 1
        return (
            into,
            (gained * second).sum(0),
            (gained * first).sum(0),
            third,
            torch.addcmul(bias * first, second, weight),
            first,
            None,
        )


def _library(x: Tensor) -> ctypes.CDLL:
    found = library("norm", *_LIBRARIES[x.dtype])
    assert found is not None
    return found


def _at(v: Tensor | None) -> int | None:
    return None if v is None else v.data_ptr()


def _norm(x: Tensor, told: tuple[Tensor | None, ...], mean: Tensor, inverse: Tensor, options: NormOptions) -> _Norm:
    """The C structure; it holds no reference, so what it points at must outlive the call."""
    weight, bias, plus, scale, shift = told
    strides = [v.stride(0) if v is not None else 0 for v in (plus, scale)]
    batch, channels, height, width = x.shape
    return _Norm(
        *map(_at, (x, weight, bias, plus, scale, shift, mean, inverse)),
        *(batch, height * width, channels, options.groups, *strides),
        options.eps,
        int(options.act),
    )
