"""Attention by matrix products against torch's own."""

import pytest
import torch
from torch.nn import functional as F

from fromnoise.networks import attention
from fromnoise.networks.attention import self_attention, use_matmul_attention


def exact(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    shares = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, 3)
    return (shares @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("shape, heads", [((3, 49, 96), 2), ((2, 7, 24), 4), ((5, 1, 6), 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient(shape, heads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in float64, to 1e-5 in float32 and to 2 % of the largest in bfloat16; also where the cache holds few heads."""
    torch.manual_seed(0)
    given = torch.randn(shape).to(dtype)
    grad = torch.randn(shape[0], shape[1], shape[2] // 3).to(dtype)
    assert use_matmul_attention(given) == (dtype == torch.bfloat16)
    results = []
    for function, cast, cache in (
        (exact, torch.float64, 1),
        (self_attention, dtype, 1 << 22),
        (self_attention, dtype, 3 * 2 * 49**2),
    ):
        monkeypatch.setattr(attention, "_CHUNK_BYTES", cache)
        leaf = given.to(cast, copy=True).requires_grad_()
        out = function(leaf, heads)
        out.backward(grad.to(cast))
        assert leaf.grad is not None
        results.append((out.detach(), leaf.grad))
    true, *mine = results
    for pair in mine:
        for is_, should in zip(pair, true, strict=True):
            near = 1e-5 if dtype == torch.float32 else 0.02 * should.abs().max()
            assert is_.dtype == dtype and (is_.double() - should).abs().max() <= near


def test_without_gradient_and_under_autocast() -> None:
    """The same numbers, whatever is kept for the gradient."""
    qkv = torch.randn(4, 9, 24).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        kept = self_attention(qkv.clone().requires_grad_(), 2)
        with torch.no_grad():
            assert torch.equal(kept, self_attention(qkv, 2))


def test_a_picture_does_not_depend_on_the_others() -> None:
    """Bit for bit, though the heads are taken some at a time."""
    qkv = torch.randn(70, 49, 96).bfloat16()
    whole = self_attention(qkv, 2)
    for i in (0, 31, 69):
        assert torch.equal(self_attention(qkv[i : i + 1], 2), whole[i : i + 1])


def test_many_pixels_take_torchs_own() -> None:
    """Whose memory does not grow with their square."""
    assert not use_matmul_attention(torch.zeros(1, 401, 6, dtype=torch.bfloat16))
    assert not use_matmul_attention(torch.zeros(0, 9, 6, dtype=torch.bfloat16))
    q = torch.randn(2, 401, 12).bfloat16()
    a, b, c = q.unflatten(2, (3, 1, -1)).permute(2, 0, 3, 1, 4)
    assert torch.equal(self_attention(q, 1), F.scaled_dot_product_attention(a, b, c).transpose(1, 2).flatten(2))
