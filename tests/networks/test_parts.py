"""The parts of the networks against closed forms, literal transcriptions and other libraries."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fromnoise.networks import layers


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same draws in every order of the tests."""
    torch.manual_seed(0)


def test_sinusoid_is_the_original() -> None:
    """As Ho et al.'s code, by way of diffusers' port of it, at any real clock."""
    clock = torch.tensor([0.0, 1.0, 17.5, 999.0, -3.0])
    for dim in (4, 32, 33, 128):
        theirs = get_timestep_embedding(clock, dim, flip_sin_to_cos=False, downscale_freq_shift=1)
        torch.testing.assert_close(layers.sinusoid(clock, dim), theirs, atol=2e-4, rtol=0)


def test_sinusoid_written_out() -> None:
    """Each entry by its formula in Python floats."""
    clock = torch.tensor([3.25, 700.0], dtype=torch.float64)
    waves = layers.sinusoid(clock, 10)
    for row, c in zip(waves.tolist(), clock.tolist(), strict=True):
        frequencies = [10000 ** (-k / 4) for k in range(5)]
        expected = [math.sin(c * f) for f in frequencies] + [math.cos(c * f) for f in frequencies]
        assert row == pytest.approx(expected, abs=1e-12)


def test_sinusoid_keeps_steps_apart_in_half_precision() -> None:
    """A bfloat16 clock would confuse neighbouring steps; the waves are float32 before any cast."""
    waves = layers.sinusoid(torch.arange(1000.0), 64).to(torch.bfloat16)
    assert len(waves.unique(dim=0)) == 1000


def test_tutorial_table_written_out() -> None:
    """Entry by entry: sine on even channels, cosine of the same angle on the odd one beside it."""
    table = layers.sinusoid_table(50, 7)
    for c in range(50):
        for j in range(7):
            angle = c / 10000 ** (2 * (j - j % 2) / 7)
            expected = math.cos(angle) if j % 2 else math.sin(angle)
            assert float(table[c, j]) == pytest.approx(expected, abs=1e-6)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 9), st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_crop_undoes_pad(height: int, width: int, more: int, wider: int) -> None:
    """Pad and crop give back the image; what is added is zero, and even to within one."""
    x = torch.rand(2, 3, height, width) + 1
    padded = layers.pad_to(x, height + more, width + wider)
    assert padded.shape == (2, 3, height + more, width + wider)
    assert torch.equal(layers.crop_to(padded, height, width), x)
    assert padded.count_nonzero() == x.numel()
    top = int((padded[0, 0].sum(1) == 0).long().cumprod(0).sum())
    left = int((padded[0, 0].sum(0) == 0).long().cumprod(0).sum())
    assert (top, left) == (more // 2, wider // 2)


def test_a_fitting_size_costs_nothing() -> None:
    """Neither a copy nor a view where nothing is to be padded or cropped."""
    x = torch.rand(1, 1, 8, 8)
    assert layers.pad_to(x, 8, 8) is x
    assert layers.crop_to(x, 8, 8) is x


def test_norm_act_is_torch() -> None:
    """A sum, GroupNorm, scale, shift and SiLU against torch's own, one after the other."""
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, scale, shift = torch.randn(2, 8, 5, 3), torch.randn(2, 8), torch.randn(2, 8)
    told = nn.SiLU()(norm(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
    for same in (x, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(layers.norm_act(same, norm), nn.SiLU()(norm(x)))
        torch.testing.assert_close(
            layers.norm_act(same, norm, addend=shift), nn.SiLU()(norm(x + shift[:, :, None, None]))
        )
        torch.testing.assert_close(layers.norm_act(same, norm, scale=scale, shift=shift), told)


def test_groups_of_one_value() -> None:
    """One pixel, one image, as many groups as channels: the normalised value is its bias."""
    norm = nn.GroupNorm(4, 4).double()
    nn.init.normal_(norm.bias)
    x = torch.randn(1, 4, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(layers.normalize(x, norm)[0, :, 0, 0], norm.bias)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_multi_head_attention(heads: int) -> None:
    """The same weights in torch's MultiheadAttention give the same output."""
    ours = layers.Attention(16, heads=heads, groups=4, eps=1e-6)
    theirs = nn.MultiheadAttention(16, heads, batch_first=True)
    with torch.no_grad():
        assert theirs.in_proj_weight is not None
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(2, 16, 3, 5)
    tokens = ours.norm(x).reshape(2, 16, 15).permute(0, 2, 1)
    expected = x + theirs(tokens, tokens, tokens)[0].permute(0, 2, 1).reshape(2, 16, 3, 5)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_attention_does_not_know_places() -> None:
    """Moving the pixels moves the output with them."""
    attention = layers.Attention(8, heads=2, groups=4, eps=1e-6)
    x = torch.randn(2, 8, 4, 4)
    order = torch.randperm(16)
    moved = attention(x.flatten(2)[..., order].reshape(2, 8, 4, 4))
    torch.testing.assert_close(moved, attention(x).flatten(2)[..., order].reshape(2, 8, 4, 4))


def test_halving_pads_as_tensorflow() -> None:
    """SAME at stride 2 and even sides: the window of output (i, j) begins at pixel (2i, 2j)."""
    halve = layers.Downsample(1)
    x = torch.randn(1, 1, 6, 8)
    for row in range(3):
        for column in range(3):
            nn.init.zeros_(halve.conv.weight)
            nn.init.zeros_(halve.conv.bias)  # pyright: ignore[reportArgumentType]
            with torch.no_grad():
                halve.conv.weight[0, 0, row, column] = 1
            expected = torch.zeros(1, 1, 3, 4)
            seen = x[..., row::2, column::2]
            expected[..., : seen.shape[-2], : seen.shape[-1]] = seen[..., :3, :4]
            torch.testing.assert_close(halve(x), expected)


def test_doubling_repeats_pixels() -> None:
    """With the identity as convolution each pixel becomes a square of four."""
    double = layers.Upsample(2)
    nn.init.dirac_(double.conv.weight)
    nn.init.zeros_(double.conv.bias)  # pyright: ignore[reportArgumentType]
    x = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(double(x), torch.kron(x, torch.ones(2, 2)))


def test_shuffling_makes_a_square_of_four_numbers_of_a_pixel() -> None:
    """With weights that pick out input 4 c + 2 i + j for output channel c, place (i, j) of the square."""
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


def test_position_says_where_a_pixel_lies() -> None:
    """Each pixel of an image its own, the same for all images, and the middle the same at any size."""
    place = layers.PositionEmbedding(16)
    added = place(torch.zeros(2, 16, 7, 5)).detach()
    assert torch.equal(added[0], added[1])
    pixels = added[0].flatten(1).T
    assert float((torch.cdist(pixels, pixels) + torch.eye(35)).min()) > 1e-2
    larger = place(torch.zeros(1, 16, 21, 15)).detach()
    torch.testing.assert_close(larger[0, :, 10, 7], added[0, :, 3, 2])
    x = torch.randn(2, 16, 7, 5)
    torch.testing.assert_close(place(x), x + added)


def test_variance_scaling_has_the_variance() -> None:
    """Uniform with variance 1 / fan_avg, biases zero; q, k and v each as a layer of their own."""
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
    """Both ways of joining the time, in functional torch."""
    x, time = torch.randn(2, 8, 4, 4), torch.randn(2, 12)
    for scale_shift in (False, True):
        block = layers.ResidualBlock(8, 4, 12, groups=2, eps=1e-5, scale_shift=scale_shift)
        for norm in (block.norm1, block.norm2):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        h = F.conv2d(F.silu(block.norm1(x)), block.conv1.weight, block.conv1.bias, padding=1)
        told = (time @ block.time.weight.T + block.time.bias).reshape(2, -1, 1, 1)
        if scale_shift:
            h = block.norm2(h) * (1 + told[:, :4]) + told[:, 4:]
        else:
            h = block.norm2(h + told)
        h = F.conv2d(F.silu(h), block.conv2.weight, block.conv2.bias, padding=1)
        torch.testing.assert_close(block(x, time), h + block.shortcut(x))
