"""Attention by matrix products against torch's scaled_dot_product_attention and a direct formula."""

import pytest
import torch
from torch.nn import functional as F

from fromnoise.networks import attention
from fromnoise.networks.attention import self_attention, use_matmul_attention


def reference(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, 3)
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("shape, heads", [((3, 49, 96), 2), ((2, 7, 24), 4), ((5, 1, 6), 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_equal_the_formula(
    shape, heads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1e-5 of float64 in float32, and within 2 % of the largest value in bfloat16; in one chunk or in many."""
    torch.manual_seed(0)
    qkv = torch.randn(shape).to(dtype)
    grad = torch.randn(shape[0], shape[1], shape[2] // 3).to(dtype)
    assert use_matmul_attention(qkv) == (dtype == torch.bfloat16)
    results = []
    for function, cast, chunk_bytes in (
        (reference, torch.float64, 1),
        (self_attention, dtype, 1 << 22),
        (self_attention, dtype, 3 * 2 * 49**2),
    ):
        monkeypatch.setattr(attention, "_CHUNK_BYTES", chunk_bytes)
        leaf = qkv.to(cast, copy=True).requires_grad_()
        out = function(leaf, heads)
        out.backward(grad.to(cast))
        assert leaf.grad is not None
        results.append((out.detach(), leaf.grad))
    expected_pair, *pairs = results
    for pair in pairs:
        for found, expected in zip(pair, expected_pair, strict=True):
            tolerance = 1e-5 if dtype == torch.float32 else 0.02 * expected.abs().max()
            assert found.dtype == dtype and (found.double() - expected).abs().max() <= tolerance


def test_output_does_not_depend_on_gradients_being_required() -> None:
    """Under autocast, with and without stored attention weights."""
    qkv = torch.randn(4, 9, 24).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        with_gradient = self_attention(qkv.clone().requires_grad_(), 2)
        with torch.no_grad():
            assert torch.equal(with_gradient, self_attention(qkv, 2))


def test_images_of_a_batch_are_independent() -> None:
    """An image alone gives the same bits as in a batch, which is processed in chunks."""
    qkv = torch.randn(70, 49, 96).bfloat16()
    whole = self_attention(qkv, 2)
    for i in (0, 31, 69):
        assert torch.equal(self_attention(qkv[i : i + 1], 2), whole[i : i + 1])


def test_more_than_400_tokens_use_torchs_attention() -> None:
    """The memory of torch's attention does not grow with the square of the tokens."""
    assert not use_matmul_attention(torch.zeros(1, 401, 6, dtype=torch.bfloat16))
    assert not use_matmul_attention(torch.zeros(0, 9, 6, dtype=torch.bfloat16))
    qkv = torch.randn(2, 401, 12).bfloat16()
    q, k, v = qkv.unflatten(2, (3, 1, -1)).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert torch.equal(self_attention(qkv, 1), expected)
