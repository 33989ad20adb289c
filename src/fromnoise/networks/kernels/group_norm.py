"""Group normalization with time conditioning and SiLU, fused into one pass over memory, on CPUs; see ``group_norm.c``.

Measured in docs/results/step.md: it shortens a training step in bfloat16 on a CPU by a tenth, in float32 not at all.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.networks.kernels.build import enabled, library

_MAX_CHANNELS = 4096  # buffers of this many numbers lie on the stack of each thread
_DEFINES = {torch.float32: (), torch.bfloat16: ("BF16",)}


class _GroupNorm(ctypes.Structure):
    """The structure ``GroupNorm`` in group_norm.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "addend", "scale", "shift", "mean", "inverse")),
        *((n, ctypes.c_int64) for n in ("batch", "pixels", "channels", "groups", "addend_stride", "scale_stride")),
        ("eps", ctypes.c_float),
        ("silu", ctypes.c_int32),
    ]


@dataclass(frozen=True)
class GroupNormOptions:
    """Constants of the operation.

    Attributes:
        groups: number of groups; divides the number of channels.
        eps: added to the variance.
        silu: apply SiLU to the result.
    """

    groups: int
    eps: float
    silu: bool


def can_fuse(x: Tensor) -> bool:
    """Whether ``fused_group_norm`` supports ``x`` (B, C, H, W), is enabled and compiled.

    ``x`` must be float32 or bfloat16 on a CPU in channels_last, with at least as many images as there are threads, and
    not traced by torch.compile or an exporter.
    """
    return (
        enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in _DEFINES
        and x.is_contiguous(memory_format=torch.channels_last)
        and len(x) >= torch.get_num_threads()
        and x.shape[1] <= _MAX_CHANNELS
        and x.numel() > 0
        and library("group_norm", *_DEFINES[x.dtype]) is not None
    )


def fused_group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    options: GroupNormOptions,
    addend: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """act((1 + scale) GroupNorm(x + addend) + shift), where act is SiLU or the identity.

    ``can_fuse(x)`` must be true.

    Args:
        x: (B, C, H, W), float32 or bfloat16, channels_last.
        weight: (C,), gain of the normalization.
        bias: (C,), bias of the normalization.
        options: groups, epsilon and activation.
        addend: (B, C); None for 0.
        scale: (B, C), given together with ``shift`` or not at all.
        shift: (B, C).

    Returns:
        (B, C, H, W) in the dtype and memory format of ``x``.
    """
    modulation = [v if v is None else v.float().contiguous() for v in (addend, scale, shift)]
    return _FusedGroupNorm.apply(x, weight.float(), bias.float(), *modulation, options)


class _FusedGroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        addend: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        options: GroupNormOptions,
    ) -> Tensor:
        mean, inverse = (x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2))
        out = torch.empty_like(x, memory_format=torch.channels_last)
        affine = (weight, bias, addend, scale, shift)
        _library(x).forward(
            ctypes.byref(_arguments(x, affine, mean, inverse, options)), ctypes.c_void_p(out.data_ptr())
        )
        ctx.save_for_backward(x, *affine, mean, inverse)
        ctx.options = options
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, addend, scale, shift, mean, inverse = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
        grad_x = torch.empty_like(x, memory_format=torch.channels_last)
        # y = gain xhat + offset: sums over the pixels of the gradients with respect to offset and gain
        grad_offset, grad_gain = torch.empty_like(mean), torch.empty_like(mean)
        grad_addend = torch.empty_like(mean) if addend is not None else None
        arguments = _arguments(x, (weight, bias, addend, scale, shift), mean, inverse, ctx.options)
        pointers = [ctypes.c_void_p(_pointer(v)) for v in (grad, grad_x, grad_offset, grad_gain, grad_addend)]
        if _library(x).backward(ctypes.byref(arguments), *pointers):
            raise MemoryError("out of memory in the backward pass of a group normalization")
        if scale is None:
            return grad_x, grad_gain.sum(0), grad_offset.sum(0), grad_addend, None, None, None
        factor = scale + 1
        return (
            grad_x,
            (factor * grad_gain).sum(0),
            (factor * grad_offset).sum(0),
            grad_addend,
            torch.addcmul(bias * grad_offset, grad_gain, weight),
            grad_offset,
            None,
        )


def _library(x: Tensor) -> ctypes.CDLL:
    loaded = library("group_norm", *_DEFINES[x.dtype])
    assert loaded is not None
    return loaded


def _pointer(v: Tensor | None) -> int | None:
    return None if v is None else v.data_ptr()


def _arguments(
    x: Tensor, affine: tuple[Tensor | None, ...], mean: Tensor, inverse: Tensor, options: GroupNormOptions
) -> _GroupNorm:
    """The C structure; it holds no references to the tensors, which must outlive the call."""
    weight, bias, addend, scale, shift = affine
    strides = [v.stride(0) if v is not None else 0 for v in (addend, scale)]
    batch, channels, height, width = x.shape
    return _GroupNorm(
        *map(_pointer, (x, weight, bias, addend, scale, shift, mean, inverse)),
        *(batch, height * width, channels, options.groups, *strides),
        options.eps,
        int(options.silu),
    )
