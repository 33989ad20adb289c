"""The general U-Net: what it is, what it takes, and what it must not do."""

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
    """The same draws in every order of the tests."""
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
    """Noise and clocks."""
    make = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=make), 1000 * torch.rand(shape[0], generator=make)


def count(net: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def test_ho2020_has_the_published_size() -> None:
    """35.7 M: the CIFAR-10 network of Ho et al. 2020, as counted in diffusers' port of its weights."""
    net = UNet(3, 3, width=128, multipliers=(1, 2, 2, 2), size=(32, 32), groups=32, dropout=0.1)
    assert count(net) == 35_746_307


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4]))
@settings(deadline=None, max_examples=30)
def test_any_size_and_channels(height: int, width: int, patch: int, channels: int) -> None:
    """HF#3630, DD#232, DD#66, DD#42, ID#131: every size and channel count, square or not, is welcome."""
    net = small(channels, 2 * channels, patch=patch)
    x, clock = batch(2, channels, height, width)
    with torch.no_grad():
        out = net(x, clock)
    assert out.shape == (2, 2 * channels, height, width)
    assert out.isfinite().all()


@pytest.mark.parametrize("size", [(28, 28), (100, 100), (300, 300), (128, 128), (48, 80), (1, 1), (31, 7)])
def test_sizes_of_the_threads(size: tuple[int, int]) -> None:
    """HF#3630 (28), DD#232 (100), DD#66 (300), ID#131 (128), DD#42 (oblong): with four levels."""
    net = small(1, 1, multipliers=(1, 1, 1, 2), levels=())
    x, clock = batch(1, 1, *size)
    with torch.no_grad():
        assert net(x, clock).shape == x.shape


def test_one_pixel_one_level() -> None:
    """The smallest picture in the smallest network: groups of one value."""
    net = small(1, 1, multipliers=(1,), groups=8, levels=(0,))
    assert net(*batch(1, 1, 1, 1)).shape == (1, 1, 1, 1)


def test_padding_is_zeros_around() -> None:
    """An odd image gives the middle of what the image in a frame of zeros gives."""
    net = small()
    x, clock = batch(2, 3, 9, 14)
    framed = F.pad(x, (1, 1, 1, 2))
    with torch.no_grad():
        assert torch.equal(net(x, clock), net(framed, clock)[..., 1:10, 1:15])


def test_begins_at_exactly_zero() -> None:
    """With zero_output the untrained network predicts 0, bit for bit; without it does not."""
    for init in ("torch", "variance-scaling"):
        x, clock = batch(2, 3, 8, 8)
        assert not small(perturb=False, init=init, zero_output=True)(x, clock).any()
        assert small(perturb=False, init=init, zero_output=False)(x, clock).any()


def test_blocks_begin_as_the_identity() -> None:
    """With zero_output a residual block and its attention pass on what they are given."""
    net = small(perturb=False, init="variance-scaling", zero_output=True)
    block, attend, _ = net.middle
    x, time = torch.randn(2, 16, 2, 2), torch.randn(2, 32)
    assert torch.equal(attend(block(x, time)), x)


def test_images_of_a_batch_do_not_meet() -> None:
    """What one image gives has no derivative with respect to another, nor to another's clock or class."""
    net = small(classes=3)
    x, clock = batch(3, 3, 8, 8)
    x.requires_grad_()
    clock.requires_grad_()
    net(x, clock, torch.tensor([0, 2, -1]))[1].sum().backward()
    assert x.grad is not None and clock.grad is not None
    for grad in (x.grad, clock.grad):
        assert grad[1].any() and not grad[0].any() and not grad[2].any()


def test_image_alone_or_in_a_batch() -> None:
    """HF#6222: an image gives the same by itself as among others, to rounding."""
    net = small(classes=3)
    x, clock = batch(5, 3, 12, 8)
    cond = torch.tensor([0, 1, 2, -1, 0])
    with torch.no_grad():
        together = net(x, clock, cond)
        alone = torch.cat([net(x[i : i + 1], clock[i : i + 1], cond[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_no_class_is_one_thing() -> None:
    """DD#352: None is -1 for everybody; classes differ from it and each other; each image has its own."""
    net = small(classes=2)
    x, clock = batch(1, 3, 8, 8)
    x, clock = x.expand(3, -1, -1, -1), clock.expand(3)
    with torch.no_grad():
        none = net(x, clock)
        assert torch.equal(net(x, clock, torch.full((3,), -1)), none)
        mixed = net(x, clock, torch.tensor([-1, 0, 1]))
    torch.testing.assert_close(mixed[0], none[0])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (mixed[a] - mixed[b]).abs().max() > 1e-3


def test_classes_have_to_be_there() -> None:
    """A class told to a network without any is refused; one beyond the last as well."""
    x, clock = batch(1, 3, 8, 8)
    with pytest.raises(ValueError, match="unconditional"):
        small()(x, clock, torch.tensor([0]))
    with pytest.raises(IndexError):
        small(classes=2)(x, clock, torch.tensor([2]))


@pytest.mark.parametrize("conditioning", ["add", "scale-shift"])
def test_time_is_heard(conditioning: str) -> None:
    """The output depends on the clock, smoothly: steps may be fractional."""
    net = small(conditioning=conditioning).double()
    x = batch(1, 3, 8, 8)[0].double()

    def at(clock: float) -> Tensor:
        with torch.no_grad():
            return net(x, torch.tensor([clock], dtype=torch.float64))

    assert (at(10) - at(11)).abs().max() > 1e-3
    near, nearer = (at(10) - at(10.01)).abs().max(), (at(10) - at(10.001)).abs().max()
    assert float(near / nearer) == pytest.approx(10, rel=0.2)


def test_patch_is_unshuffle_and_shuffle() -> None:
    """The network with patches is the one without, between torch's pixel unshuffle and shuffle."""
    net, plain = small(3, 6, patch=2), small(12, 24)
    plain.load_state_dict(net.state_dict())
    x, clock = batch(2, 3, 16, 24)
    with torch.no_grad():
        expected = nn.PixelShuffle(2)(plain(nn.PixelUnshuffle(2)(x), clock))
        torch.testing.assert_close(net(x, clock), expected)


@pytest.mark.parametrize("blocks_up", [1, 2, 3, 4, 6])
def test_any_number_of_blocks_going_up(blocks_up: int) -> None:
    """Fewer than the skips, as many, and more; the channels joined are those that were kept."""
    net = small(blocks=2, blocks_up=blocks_up)
    x, clock = batch(2, 3, 8, 8)
    assert net(x, clock).shape == x.shape
    seen = {name: m.in_channels for name, m in net.up.named_modules() if isinstance(m, nn.Conv2d)}
    joined = [seen[f"{level}.blocks.{i}.conv1"] for level in (2, 1, 0) for i in range(blocks_up)]
    taken = min(blocks_up, 3)
    skips = [[16, 16, 16], [16, 16, 8], [8, 8, 8]]
    expected = []
    for outs, below, level in zip([16, 16, 8], [16, 16, 16], skips, strict=True):
        given = level[:taken] + [0] * (blocks_up - taken)
        expected += [own + skip for own, skip in zip([below] + [outs] * (blocks_up - 1), given, strict=True)]
    assert joined == expected


def every_option() -> list[dict[str, Any]]:
    """Networks that between them use every option."""
    return [
        {},
        {"conditioning": "scale-shift", "classes": 3, "heads": 2},
        {"upsampling": "transposed", "patch": 2, "head_dim": 4},
        {"upsampling": "shuffle", "patch": 2, "positions": True},
        {"blocks": 2, "blocks_up": 1, "middle_attention": False, "levels": ()},
        {"time_dim": 32, "hidden_dim": 20, "init": "variance-scaling", "dropout": 0.1},
    ]


@pytest.mark.parametrize("options", every_option())
def test_gradient_reaches_every_parameter(options: dict[str, Any]) -> None:
    """No parameter is without use, which training in several processes would stumble over."""
    net = small(**options).train()
    x, clock = batch(2, 3, 16, 16)
    (net(x, clock) * batch(2, 3, 16, 16, seed=1)[0]).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.any(), name


@pytest.mark.parametrize("options", every_option())
def test_channels_last_flows_through(options: dict[str, Any]) -> None:
    """In comes channels_last, every convolution sees it, out it goes, and the values are the same."""
    net = small(**options)
    x, clock = batch(2, 3, 16, 32)
    with torch.no_grad():
        expected = net(x, clock)
    net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    strayed = []

    def on_step(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def see(module: nn.Module, args: tuple[Tensor]) -> None:
            if not args[0].is_contiguous(memory_format=torch.channels_last):
                strayed.append(name)

        return see

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_pre_hook(on_step(name))
    with torch.no_grad():
        out = net(x.to(memory_format=torch.channels_last), clock)
    assert not strayed
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", every_option())
def test_precisions(options: dict[str, Any]) -> None:
    """float64 agrees with float32 to rounding; bfloat16, by autocast or throughout, is finite and near."""
    net = small(**options)
    x, clock = batch(2, 3, 16, 16)
    with torch.no_grad():
        single = net(x, clock)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x, clock)
        double = net.double()(x.double(), clock)
        brief = net.bfloat16()(x.bfloat16(), clock)
        layout = torch.channels_last
        again = net.to(memory_format=layout)(x.bfloat16().contiguous(memory_format=layout), clock)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-3, rtol=1e-3)
    for rough in (half, brief, again):
        assert rough.isfinite().all()
        assert (rough.float() - single).std() < 0.05 * single.std()


def test_dropout_only_when_training() -> None:
    """Two passes differ in training and agree in evaluation."""
    net = small(dropout=0.5)
    x, clock = batch(2, 3, 8, 8)
    assert torch.equal(net(x, clock), net(x, clock))
    net.train()
    assert not torch.equal(net(x, clock), net(x, clock))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_changes_memory_alone(dropout: float) -> None:
    """The same output and gradients, bit for bit, dropout included; less is kept for the backward pass."""
    x, clock = batch(2, 3, 16, 16)
    grads, kept = [], []
    for recompute in (False, True):
        net = small(recompute=recompute, dropout=dropout, blocks=2).train()
        held: dict[int, int] = {}

        def keep(t: Tensor, held: dict[int, int] = held) -> Tensor:
            held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            out = net(x, clock)
        kept.append(sum(held.values()))
        out.square().sum().backward()
        grads.append([out.detach(), *(p.grad for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert kept[1] < 0.6 * kept[0]


def test_compiles_as_one_graph() -> None:
    """torch.compile finds no break, with classes, patches, padding and skips."""
    net = small(classes=3, patch=2, conditioning="scale-shift")
    x, clock = batch(2, 3, 9, 12)
    cond = torch.tensor([0, -1])
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, clock, cond), net(x, clock, cond))
