"""Softmax attention among the pixels of an image: torch's own, or by matrix products where those are faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_TOKENS = 400  # their squares are kept for the gradient
_CACHE = 4 << 20  # bytes of scores worked on at once


def attend(qkv: Tensor, heads: int) -> Tensor:
    """softmax(q k' / sqrt(d)) v of each head (Vaswani et al. 2017, eq. 1).

    Args:
        qkv: (B, N, 3 C): queries, keys and values, each the channels of its heads one after another.
        heads: divides C; d = C / heads.

    Returns:
        (B, N, C).
    """
    if multiplied(qkv):
        return _Products.apply(qkv, heads)
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def multiplied(qkv: Tensor) -> bool:
    """Whether matrix products are faster: of few tokens in bfloat16 on a CPU, for which torch's has no fast ones."""
    return (
        not torch.compiler.is_compiling()
        and type(qkv) is Tensor
        and qkv.device.type == "cpu"
        and qkv.dtype == torch.bfloat16
        and 0 < qkv.shape[1] <= _TOKENS
        and qkv.numel() > 0
    )


class _Products(torch.autograd.Function):
    """Some heads at a time, so that their scores stay in the cache; scores are rounded to bfloat16."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        batch, tokens, _ = qkv.shape
        q, k, v = _apart(qkv, 3, heads)
        scale, each = q.shape[2] ** -0.5, max(1, _CACHE // (2 * tokens * tokens))
        out, scores = torch.empty_like(q), q.new_empty(min(each, len(q)), tokens, tokens)
        keep = q.new_empty(len(q), tokens, tokens) if ctx.needs_input_grad[0] else None
        with torch.autocast("cpu", enabled=False):
            for i in range(0, len(q), each):
                part = slice(i, min(i + each, len(q)))
                some = scores[: part.stop - i]
                torch.baddbmm(some, q[part], k[part].mT, beta=0, alpha=scale, out=some)
                share = torch.softmax(some, 2, out=some if keep is None else keep[part])
                torch.bmm(share, v[part], out=out[part])
        if keep is not None:
            ctx.save_for_backward(q, k, v, keep)
            ctx.heads, ctx.each = heads, each
        return _together(out.view(1, batch, heads, tokens, -1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        q, k, v, keep = ctx.saved_tensors
        each, scale = ctx.each, q.shape[2] ** -0.5
        g = _apart(grad.to(q.dtype), 1, ctx.heads)[0]
        into = q.new_empty(3, *q.shape)
        by_q, by_k, by_v = into
        by_share = torch.empty_like(keep[:each])
        for i in range(0, len(q), each):
            part = slice(i, min(i + each, len(q)))
            share = keep[part]
            torch.bmm(share.mT, g[part], out=by_v[part])
            some = torch.bmm(g[part], v[part].mT, out=by_share[: len(share)])
            some = torch._softmax_backward_data(some, share, 2, share.dtype)
            torch.baddbmm(by_q[part], some, k[part], beta=0, alpha=scale, out=by_q[part])
            torch.baddbmm(by_k[part], some.mT, q[part], beta=0, alpha=scale, out=by_k[part])
        return _together(into.view(3, len(grad), ctx.heads, *q.shape[1:])), None


def _apart(x: Tensor, parts: int, heads: int) -> Tensor:
    """(B, N, parts heads d) to (parts, B heads, N, d), in a new place."""
    return x.unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2)


def _together(x: Tensor) -> Tensor:
    """(parts, B, heads, N, d) to (B, N, parts heads d), in a new place."""
    return x.permute(1, 3, 0, 2, 4).flatten(2)
