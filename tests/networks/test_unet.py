"""The general U-Net: sizes, conditioning, skip connections, memory formats and precisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks import UNet

SMALL: dict[str, Any] = {"width": 8, "multipliers": (1, 2, 2), "blocks": 1, "groups": 4}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in any order of the tests."""
    torch.manual_seed(0)


def small(
    in_channels: int = 3,
    out_channels: int = 3,
    *,
    levels: tuple[int, ...] = (1,),
    perturb: bool = True,
    **options: Any,  # noqa: ANN401
) -> UNet:
    """A network of a few thousand parameters, in evaluation mode.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        levels: with attention; at 64 x 64 pixels their sides are exact.
        perturb: add noise to every parameter, so that none is zero.
        options: of ``UNet``.
    """
    torch.manual_seed(0)
    sides = tuple(64 // (options.get("patch", 1) * 2**level) for level in levels)
    options = SMALL | {"size": (64, 64), "attention_resolutions": sides} | options
    net = UNet(in_channels, out_channels, **options).eval()
    if perturb:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p), alpha=0.1)
    return net


def batch(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise and timesteps."""
    make = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=make), 1000 * torch.rand(shape[0], generator=make)


def count(net: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def test_ho2020_has_the_published_size() -> None:
    """35.7 M: the CIFAR-10 network of Ho et al. 2020, counted in the conversion of its weights by diffusers."""
    net = UNet(3, 3, width=128, multipliers=(1, 2, 2, 2), size=(32, 32), groups=32, dropout=0.1)
    assert count(net) == 35_746_307


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4]))
@settings(deadline=None, max_examples=30)
def test_any_size_and_channels(height: int, width: int, patch: int, channels: int) -> None:
    """HF#3630, DD#232, DD#66, DD#42, ID#131: every size and channel count, square or not."""
    net = small(channels, 2 * channels, patch=patch)
    x, t = batch(2, channels, height, width)
    with torch.no_grad():
        out = net(x, t)
    assert out.shape == (2, 2 * channels, height, width)
    assert out.isfinite().all()


@pytest.mark.parametrize("size", [(28, 28), (100, 100), (300, 300), (128, 128), (48, 80), (1, 1), (31, 7)])
def test_sizes_of_reported_issues(size: tuple[int, int]) -> None:
    """HF#3630 (28), DD#232 (100), DD#66 (300), ID#131 (128), DD#42 (oblong), with four levels."""
    net = small(1, 1, multipliers=(1, 1, 1, 2), levels=())
    x, t = batch(1, 1, *size)
    with torch.no_grad():
        assert net(x, t).shape == x.shape


def test_one_pixel_one_level() -> None:
    """The smallest image in the smallest network: each group of the normalization has one value."""
    net = small(1, 1, multipliers=(1,), groups=8, levels=(0,))
    assert net(*batch(1, 1, 1, 1)).shape == (1, 1, 1, 1)


def test_padding_equals_a_frame_of_zeros() -> None:
    """The output for an image of odd size is the middle of that for the image in a frame of zeros."""
    net = small()
    x, t = batch(2, 3, 9, 14)
    framed = F.pad(x, (1, 1, 1, 2))
    with torch.no_grad():
        assert torch.equal(net(x, t), net(framed, t)[..., 1:10, 1:15])


def test_zero_output_predicts_exactly_zero() -> None:
    """With zero_output the untrained network predicts 0, bit for bit; without it another value."""
    for init in ("torch", "variance-scaling"):
        x, t = batch(2, 3, 8, 8)
        assert not small(perturb=False, init=init, zero_output=True)(x, t).any()
        assert small(perturb=False, init=init, zero_output=False)(x, t).any()


def test_zero_output_makes_blocks_the_identity() -> None:
    """With zero_output a residual block and its attention initially return their input."""
    net = small(perturb=False, init="variance-scaling", zero_output=True)
    block, attention, _ = net.middle
    x, time = torch.randn(2, 16, 2, 2), torch.randn(2, 32)
    assert torch.equal(attention(block(x, time)), x)


def test_images_of_a_batch_are_independent() -> None:
    """The output of one image has no derivative with respect to another image or its timestep."""
    net = small(classes=3)
    x, t = batch(3, 3, 8, 8)
    x.requires_grad_()
    t.requires_grad_()
    net(x, t, torch.tensor([0, 2, -1]))[1].sum().backward()
    assert x.grad is not None and t.grad is not None
    for grad in (x.grad, t.grad):
        assert grad[1].any() and not grad[0].any() and not grad[2].any()


def test_batch_size_does_not_matter() -> None:
    """HF#6222: an image alone and in a batch has the same output, to rounding."""
    net = small(classes=3)
    x, t = batch(5, 3, 12, 8)
    cond = torch.tensor([0, 1, 2, -1, 0])
    with torch.no_grad():
        together = net(x, t, cond)
        alone = torch.cat([net(x[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_none_equals_the_null_class() -> None:
    """DD#352: cond=None equals -1 for every image; each image of a batch has its own class."""
    net = small(classes=2)
    x, t = batch(1, 3, 8, 8)
    x, t = x.expand(3, -1, -1, -1), t.expand(3)
    with torch.no_grad():
        none = net(x, t)
        assert torch.equal(net(x, t, torch.full((3,), -1)), none)
        mixed = net(x, t, torch.tensor([-1, 0, 1]))
    torch.testing.assert_close(mixed[0], none[0])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (mixed[a] - mixed[b]).abs().max() > 1e-3


def test_unknown_classes_are_refused() -> None:
    """A condition for an unconditional network is refused, and so is a class index that is too large."""
    x, t = batch(1, 3, 8, 8)
    with pytest.raises(ValueError, match="unconditional"):
        small()(x, t, torch.tensor([0]))
    with pytest.raises(IndexError):
        small(classes=2)(x, t, torch.tensor([2]))


@pytest.mark.parametrize("conditioning", ["add", "scale-shift"])
def test_output_depends_on_time(conditioning: str) -> None:
    """The output is a smooth function of t, which may be fractional."""
    net = small(conditioning=conditioning).double()
    x = batch(1, 3, 8, 8)[0].double()

    def at(step: float) -> Tensor:
        with torch.no_grad():
            return net(x, torch.tensor([step], dtype=torch.float64))

    assert (at(10) - at(11)).abs().max() > 1e-3
    near, nearer = (at(10) - at(10.01)).abs().max(), (at(10) - at(10.001)).abs().max()
    assert float(near / nearer) == pytest.approx(10, rel=0.2)


def test_patch_equals_pixel_unshuffle_and_shuffle() -> None:
    """A network with patch 2 equals one without patches between torch's PixelUnshuffle and PixelShuffle."""
    net, plain = small(3, 6, patch=2), small(12, 24)
    plain.load_state_dict(net.state_dict())
    x, t = batch(2, 3, 16, 24)
    with torch.no_grad():
        expected = nn.PixelShuffle(2)(plain(nn.PixelUnshuffle(2)(x), t))
        torch.testing.assert_close(net(x, t), expected)


@pytest.mark.parametrize("blocks_up", [1, 2, 3, 4, 6])
def test_any_number_of_blocks_on_the_way_up(blocks_up: int) -> None:
    """Fewer blocks than skip connections, as many, and more: the input channels of each block are as expected."""
    net = small(blocks=2, blocks_up=blocks_up)
    x, t = batch(2, 3, 8, 8)
    assert net(x, t).shape == x.shape
    ins = {name: m.in_channels for name, m in net.up.named_modules() if isinstance(m, nn.Conv2d)}
    found = [ins[f"{level}.blocks.{i}.conv1"] for level in (2, 1, 0) for i in range(blocks_up)]
    used = min(blocks_up, 3)
    skips = [[16, 16, 16], [16, 16, 8], [8, 8, 8]]
    expected = []
    for outs, below, level in zip([16, 16, 8], [16, 16, 16], skips, strict=True):
        joined = level[:used] + [0] * (blocks_up - used)
        expected += [own + skip for own, skip in zip([below] + [outs] * (blocks_up - 1), joined, strict=True)]
    assert found == expected


def every_option() -> list[dict[str, Any]]:
    """Sets of options that together contain every option."""
    return [
        {},
        {"conditioning": "scale-shift", "classes": 3, "heads": 2},
        {"upsampling": "transposed", "patch": 2, "head_dim": 4},
        {"upsampling": "shuffle", "patch": 2, "positions": True},
        {"blocks": 2, "blocks_up": 1, "middle_attention": False, "levels": ()},
        {"time_dim": 32, "hidden_dim": 20, "init": "variance-scaling", "dropout": 0.1},
        {"attention_residual": "normalized", "norm_eps": 1e-3, "zero_output": True, "recompute": True},
    ]


@pytest.mark.parametrize("options", every_option())
def test_gradient_reaches_every_parameter(options: dict[str, Any]) -> None:
    """Training in several processes needs a gradient of every parameter."""
    net = small(**options).train()
    x, t = batch(2, 3, 16, 16)
    (net(x, t) * batch(2, 3, 16, 16, seed=1)[0]).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.any(), name


@pytest.mark.parametrize("options", every_option())
def test_channels_last_is_kept(options: dict[str, Any]) -> None:
    """With a channels_last input, every convolution and the output are channels_last; the values are the same."""
    net = small(**options)
    x, t = batch(2, 3, 16, 32)
    with torch.no_grad():
        expected = net(x, t)
    net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    contiguous = []

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(module: nn.Module, args: tuple[Tensor]) -> None:
            if not args[0].is_contiguous(memory_format=torch.channels_last):
                contiguous.append(name)

        return hook

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_pre_hook(record(name))
    with torch.no_grad():
        out = net(x.to(memory_format=torch.channels_last), t)
    assert not contiguous
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", every_option())
def test_precisions(options: dict[str, Any]) -> None:
    """float64 agrees with float32 to rounding; bfloat16, by autocast or throughout, is finite and close."""
    net = small(**options)
    x, t = batch(2, 3, 16, 16)
    with torch.no_grad():
        single = net(x, t)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = net(x, t)
        double = net.double()(x.double(), t)
        bfloat16 = net.bfloat16()(x.bfloat16(), t)
        layout = torch.channels_last
        channels_last = net.to(memory_format=layout)(x.bfloat16().contiguous(memory_format=layout), t)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-3, rtol=1e-3)
    for rounded in (autocast, bfloat16, channels_last):
        assert rounded.isfinite().all()
        assert (rounded.float() - single).std() < 0.05 * single.std()


def test_dropout_only_in_training() -> None:
    """Two passes differ in training and agree in evaluation."""
    net = small(dropout=0.5)
    x, t = batch(2, 3, 8, 8)
    assert torch.equal(net(x, t), net(x, t))
    net.train()
    assert not torch.equal(net(x, t), net(x, t))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recompute_saves_memory_and_changes_nothing(dropout: float) -> None:
    """Output and gradients are bit-identical, dropout included; less is stored for the backward pass."""
    x, t = batch(2, 3, 16, 16)
    results, stored_bytes = [], []
    for recompute in (False, True):
        net = small(recompute=recompute, dropout=dropout, blocks=2).train()
        stored: dict[int, int] = {}

        def pack(v: Tensor, stored: dict[int, int] = stored) -> Tensor:
            stored[v.untyped_storage().data_ptr()] = v.untyped_storage().nbytes()
            return v

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
            out = net(x, t)
        stored_bytes.append(sum(stored.values()))
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert stored_bytes[1] < 0.6 * stored_bytes[0]


def test_compiles_as_one_graph() -> None:
    """torch.compile finds no graph break, with classes, patches, padding and skip connections."""
    net = small(classes=3, patch=2, conditioning="scale-shift")
    x, t = batch(2, 3, 9, 12)
    cond = torch.tensor([0, -1])
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, cond), net(x, t, cond))
