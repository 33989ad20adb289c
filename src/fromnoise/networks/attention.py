"""Softmax self-attention: torch's fused implementation, or matrix products where these are faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_MAX_TOKENS = 400  # the backward pass stores the attention weights: memory grows with the square
_CHUNK_BYTES = 4 << 20  # attention scores that are computed at once, so that they stay in the processor's cache


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, eq. 1).

    softmax(q k^T / sqrt(d)) v,   d = C / heads

    Args:
        qkv: (B, N, 3 C): queries, keys, values; within each of them the C channels are ordered by head.
        heads: number of heads; must divide C.

    Returns:
        (B, N, C).
    """
    if use_matmul_attention(qkv):
        return _MatmulAttention.apply(qkv, heads)
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def use_matmul_attention(qkv: Tensor) -> bool:
    """Whether matrix products are faster than torch's fused attention: bfloat16 on a CPU with few tokens.

    torch's fused attention has no fast bfloat16 products on CPUs without AMX.
    """
    return (
        not torch.compiler.is_compiling()
        and type(qkv) is Tensor
        and qkv.device.type == "cpu"
        and qkv.dtype == torch.bfloat16
        and 0 < qkv.shape[1] <= _MAX_TOKENS
        and qkv.numel() > 0
    )


class _MatmulAttention(torch.autograd.Function):
    """Attention by batched matrix products, a chunk of heads at a time; scores are rounded to bfloat16."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        batch, tokens, _ = qkv.shape
        q, k, v = _split_heads(qkv, 3, heads)
        scale, chunk = q.shape[2] ** -0.5, max(1, _CHUNK_BYTES // (2 * tokens * tokens))
        out, buffer = torch.empty_like(q), q.new_empty(min(chunk, len(q)), tokens, tokens)
        weights = q.new_empty(len(q), tokens, tokens) if ctx.needs_input_grad[0] else None
        with torch.autocast("cpu", enabled=False):
            for i in range(0, len(q), chunk):
                part = slice(i, min(i + chunk, len(q)))
                scores = buffer[: part.stop - i]
                torch.baddbmm(scores, q[part], k[part].mT, beta=0, alpha=scale, out=scores)
                weight = torch.softmax(scores, 2, out=scores if weights is None else weights[part])
                torch.bmm(weight, v[part], out=out[part])
        if weights is not None:
            ctx.save_for_backward(q, k, v, weights)
            ctx.heads, ctx.chunk = heads, chunk
        return _merge_heads(out.view(1, batch, heads, tokens, -1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        chunk, scale = ctx.chunk, q.shape[2] ** -0.5
        grad_out = _split_heads(grad.to(q.dtype), 1, ctx.heads)[0]
        grads = q.new_empty(3, *q.shape)
        grad_q, grad_k, grad_v = grads
        buffer = torch.empty_like(weights[:chunk])
        for i in range(0, len(q), chunk):
            part = slice(i, min(i + chunk, len(q)))
            weight = weights[part]
            torch.bmm(weight.mT, grad_out[part], out=grad_v[part])
            grad_scores = torch.bmm(grad_out[part], v[part].mT, out=buffer[: len(weight)])
            grad_scores = torch._softmax_backward_data(grad_scores, weight, 2, weight.dtype)
            torch.baddbmm(grad_q[part], grad_scores, k[part], beta=0, alpha=scale, out=grad_q[part])
            torch.baddbmm(grad_k[part], grad_scores.mT, q[part], beta=0, alpha=scale, out=grad_k[part])
        return _merge_heads(grads.view(3, len(grad), ctx.heads, *q.shape[1:])), None


def _split_heads(x: Tensor, parts: int, heads: int) -> Tensor:
    """Copy (B, N, parts heads d) to (parts, B heads, N, d)."""
    return x.unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    """Copy (parts, B, heads, N, d) to (B, N, parts heads d)."""
    return x.permute(1, 3, 0, 2, 4).flatten(2)
