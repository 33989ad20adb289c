"""The layers of the networks against closed forms, literal transcriptions and other libraries."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fromnoise.networks import embeddings, layers


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in any order of the tests."""
    torch.manual_seed(0)


def test_sinusoid_equals_diffusers() -> None:
    """The embedding of Ho et al.'s code, as ported by diffusers, at any real timestep."""
    t = torch.tensor([0.0, 1.0, 17.5, 999.0, -3.0])
    for dim in (4, 32, 33, 128):
        theirs = get_timestep_embedding(t, dim, flip_sin_to_cos=False, downscale_freq_shift=1)
        torch.testing.assert_close(embeddings.sinusoid(t, dim), theirs, atol=2e-4, rtol=0)


def test_sinusoid_written_out() -> None:
    """Each channel equals its formula in Python floats."""
    t = torch.tensor([3.25, 700.0], dtype=torch.float64)
    embedding = embeddings.sinusoid(t, 10)
    for row, step in zip(embedding.tolist(), t.tolist(), strict=True):
        frequencies = [10000 ** (-k / 4) for k in range(5)]
        expected = [math.sin(step * f) for f in frequencies] + [math.cos(step * f) for f in frequencies]
        assert row == pytest.approx(expected, abs=1e-12)


def test_sinusoid_distinguishes_timesteps_in_half_precision() -> None:
    """Sinusoids are computed in float32: cast to bfloat16 afterwards, they differ for all timesteps."""
    embedding = embeddings.sinusoid(torch.arange(1000.0), 64).to(torch.bfloat16)
    assert len(embedding.unique(dim=0)) == 1000


def test_tutorial_table_written_out() -> None:
    """Entry by entry: the sine on an even channel, the cosine of the same angle on the next."""
    table = embeddings.sinusoid_table(50, 7)
    for c in range(50):
        for j in range(7):
            angle = c / 10000 ** (2 * (j - j % 2) / 7)
            expected = math.cos(angle) if j % 2 else math.sin(angle)
            assert float(table[c, j]) == pytest.approx(expected, abs=1e-6)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 9), st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_crop_undoes_pad(height: int, width: int, rows: int, columns: int) -> None:
    """Cropping restores the image; the padding is zero and symmetric to within one pixel."""
    x = torch.rand(2, 3, height, width) + 1
    padded = layers.pad_to(x, height + rows, width + columns)
    assert padded.shape == (2, 3, height + rows, width + columns)
    assert torch.equal(layers.crop_to(padded, height, width), x)
    assert padded.count_nonzero() == x.numel()
    top = int((padded[0, 0].sum(1) == 0).long().cumprod(0).sum())
    left = int((padded[0, 0].sum(0) == 0).long().cumprod(0).sum())
    assert (top, left) == (rows // 2, columns // 2)


def test_pad_and_crop_return_an_image_of_the_right_size() -> None:
    """The same tensor, neither a copy nor a view, if nothing is padded or cropped."""
    x = torch.rand(1, 1, 8, 8)
    assert layers.pad_to(x, 8, 8) is x
    assert layers.crop_to(x, 8, 8) is x


def test_norm_act_equals_torch() -> None:
    """Sum, GroupNorm, scale, shift and SiLU by separate operations of torch, in both memory formats."""
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, scale, shift = torch.randn(2, 8, 5, 3), torch.randn(2, 8), torch.randn(2, 8)
    modulated = nn.SiLU()(norm(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
    for image in (x, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(layers.norm_act(image, norm), nn.SiLU()(norm(x)))
        torch.testing.assert_close(
            layers.norm_act(image, norm, addend=shift), nn.SiLU()(norm(x + shift[:, :, None, None]))
        )
        torch.testing.assert_close(layers.norm_act(image, norm, scale=scale, shift=shift), modulated)


def test_groups_of_one_value() -> None:
    """One image of one pixel, with as many groups as channels: the output is the bias."""
    norm = nn.GroupNorm(4, 4).double()
    nn.init.normal_(norm.bias)
    x = torch.randn(1, 4, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(layers.normalize(x, norm)[0, :, 0, 0], norm.bias)


@pytest.mark.parametrize("normalized_residual", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_equals_torchs_multihead_attention(heads: int, normalized_residual: bool) -> None:
    """With the same weights; the residual is the input or the normalized input."""
    ours = layers.Attention(16, heads=heads, groups=4, eps=1e-6, normalized_residual=normalized_residual)
    theirs = nn.MultiheadAttention(16, heads, batch_first=True)
    with torch.no_grad():
        assert theirs.in_proj_weight is not None
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(2, 16, 3, 5)
    normalized = ours.norm(x)
    tokens = normalized.reshape(2, 16, 15).permute(0, 2, 1)
    residual = normalized if normalized_residual else x
    expected = residual + theirs(tokens, tokens, tokens)[0].permute(0, 2, 1).reshape(2, 16, 3, 5)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_attention_commutes_with_permutations() -> None:
    """Permuting the pixels of the input permutes the output."""
    attention = layers.Attention(8, heads=2, groups=4, eps=1e-6)
    x = torch.randn(2, 8, 4, 4)
    order = torch.randperm(16)
    permuted = attention(x.flatten(2)[..., order].reshape(2, 8, 4, 4))
    torch.testing.assert_close(permuted, attention(x).flatten(2)[..., order].reshape(2, 8, 4, 4))


def test_downsample_pads_like_tensorflow() -> None:
    """Padding SAME at stride 2 and even sides: the window of output (i, j) begins at pixel (2i, 2j)."""
    downsample = layers.Downsample(1)
    x = torch.randn(1, 1, 6, 8)
    for row in range(3):
        for column in range(3):
            nn.init.zeros_(downsample.conv.weight)
            nn.init.zeros_(downsample.conv.bias)  # pyright: ignore[reportArgumentType]
            with torch.no_grad():
                downsample.conv.weight[0, 0, row, column] = 1
            expected = torch.zeros(1, 1, 3, 4)
            window = x[..., row::2, column::2]
            expected[..., : window.shape[-2], : window.shape[-1]] = window[..., :3, :4]
            torch.testing.assert_close(downsample(x), expected)


def test_upsample_repeats_pixels() -> None:
    """With the identity as convolution each pixel becomes a 2x2 square."""
    upsample = layers.Upsample(2)
    nn.init.dirac_(upsample.conv.weight)
    nn.init.zeros_(upsample.conv.bias)  # pyright: ignore[reportArgumentType]
    x = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(upsample(x), torch.kron(x, torch.ones(2, 2)))


def test_pixel_shuffle_upsample_order_of_channels() -> None:
    """With the identity as convolution, input channel 4 c + 2 i + j is output channel c at (i, j) of the 2x2 square."""
    shuffle = layers.PixelShuffleUpsample(8, 2)
    nn.init.dirac_(shuffle.conv.weight)
    nn.init.zeros_(shuffle.conv.bias)  # pyright: ignore[reportArgumentType]
    x = torch.randn(1, 8, 3, 4)
    out = shuffle(x)
    assert out.shape == (1, 2, 6, 8)
    for c in range(2):
        for i in range(2):
            for j in range(2):
                torch.testing.assert_close(out[0, c, i::2, j::2], x[0, 4 * c + 2 * i + j])


def test_position_embedding_identifies_pixels() -> None:
    """It differs between pixels, is equal for all images, and at the centre does not depend on the size."""
    embed = embeddings.PositionEmbedding(16)
    added = embed(torch.zeros(2, 16, 7, 5)).detach()
    assert torch.equal(added[0], added[1])
    pixels = added[0].flatten(1).T
    assert float((torch.cdist(pixels, pixels) + torch.eye(35)).min()) > 1e-2
    larger = embed(torch.zeros(1, 16, 21, 15)).detach()
    torch.testing.assert_close(larger[0, :, 10, 7], added[0, :, 3, 2])
    x = torch.randn(2, 16, 7, 5)
    torch.testing.assert_close(embed(x), x + added)


def test_variance_scaling_distribution() -> None:
    """Uniform with variance 1 / fan_avg, biases zero; query, key and value projections as separate layers."""
    root = nn.ModuleDict(
        {
            "conv": nn.Conv2d(64, 128, 3),
            "transposed": nn.ConvTranspose2d(64, 128, 4),
            "linear": nn.Linear(300, 500),
            "attention": layers.Attention(128, heads=1, groups=8, eps=1e-6),
        }
    )
    layers.variance_scaling(root)
    attention = root["attention"]
    assert isinstance(attention, layers.Attention)
    fans = {
        "conv": ([root["conv"].weight], 9 * (64 + 128) / 2),
        "transposed": ([root["transposed"].weight], 16 * (64 + 128) / 2),
        "linear": ([root["linear"].weight], (300 + 500) / 2),
        "attention": ([*attention.qkv.weight.chunk(3), attention.out.weight], 128),
    }
    for weights, fan in fans.values():
        for weight in weights:
            assert isinstance(weight, torch.Tensor)
            weight = weight.detach()
            assert float(weight.var()) == pytest.approx(1 / fan, rel=0.05)
            assert float(weight.abs().max()) == pytest.approx(math.sqrt(3 / fan), rel=0.01)
    assert all(not p.any() for name, p in root.named_parameters() if name.endswith("bias"))


def test_residual_block_written_out() -> None:
    """With the time embedding added, and with scale and shift, in functional torch."""
    x, time = torch.randn(2, 8, 4, 4), torch.randn(2, 12)
    for scale_shift in (False, True):
        block = layers.ResidualBlock(8, 4, 12, groups=2, eps=1e-5, scale_shift=scale_shift)
        for norm in (block.norm1, block.norm2):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        h = F.conv2d(F.silu(block.norm1(x)), block.conv1.weight, block.conv1.bias, padding=1)
        projected = (time @ block.time.weight.T + block.time.bias).reshape(2, -1, 1, 1)
        if scale_shift:
            h = block.norm2(h) * (1 + projected[:, :4]) + projected[:, 4:]
        else:
            h = block.norm2(h + projected)
        h = F.conv2d(F.silu(h), block.conv2.weight, block.conv2.bias, padding=1)
        torch.testing.assert_close(block(x, time), h + block.shortcut(x))
