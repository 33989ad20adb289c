"""LucidrainsUNet against the published layer table, written out in functional torch with the published weight names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from foreign_packages import import_lucidrains
from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.interop.lucidrains import weights_from_published
from fromnoise.model import build
from fromnoise.networks import LucidrainsUNet

Weights = Mapping[str, Tensor]
SMALL: dict[str, Any] = {"width": 8, "multipliers": (1, 2, 3), "heads": 2, "head_dim": 4, "memory_kv": 3}


def published_shapes(
    ins: int,
    outs: int,
    dim: int,
    mults: Sequence[int],
    *,
    full: Sequence[bool] = (),
    heads: int = 4,
    head_dim: int = 32,
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of the published network."""
    levels = len(mults)
    full = tuple(full) or tuple(level == levels - 1 for level in range(levels))
    hidden = heads * head_dim
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def residual(name: str, a: int, b: int) -> None:
        layer(f"{name}.mlp.1", 2 * b, 4 * dim)
        for block, c in (("block1", a), ("block2", b)):
            layer(f"{name}.{block}.proj", b, c, 3, 3)
            shapes[f"{name}.{block}.norm.g"] = (1, b, 1, 1)
        if a != b:
            layer(f"{name}.res_conv", b, a, 1, 1)

    def attention(name: str, c: int, is_full: bool) -> None:
        shapes[f"{name}.norm.g"] = (1, c, 1, 1)
        shapes[f"{name}.mem_kv"] = (2, heads, 4, head_dim) if is_full else (2, heads, head_dim, 4)
        shapes[f"{name}.to_qkv.weight"] = (3 * hidden, c, 1, 1)
        layer(f"{name}.to_out" if is_full else f"{name}.to_out.0", c, hidden, 1, 1)
        if not is_full:
            shapes[f"{name}.to_out.1.g"] = (1, c, 1, 1)

    layer("init_conv", dim, ins, 7, 7)
    layer("time_mlp.1", 4 * dim, dim)
    layer("time_mlp.3", 4 * dim, 4 * dim)
    widths = [dim] + [dim * m for m in mults]
    for i in range(levels):
        a, b = widths[i], widths[i + 1]
        residual(f"downs.{i}.0", a, a)
        residual(f"downs.{i}.1", a, a)
        attention(f"downs.{i}.2", a, full[i])
        if i < levels - 1:
            layer(f"downs.{i}.3.1", b, 4 * a, 1, 1)
        else:
            layer(f"downs.{i}.3", b, a, 3, 3)
        up = levels - 1 - i
        residual(f"ups.{up}.0", b + a, b)
        residual(f"ups.{up}.1", b + a, b)
        attention(f"ups.{up}.2", b, full[i])
        layer(f"ups.{up}.3.1" if i > 0 else f"ups.{up}.3", a, b, 3, 3)
    residual("mid_block1", widths[-1], widths[-1])
    attention("mid_attn", widths[-1], True)
    residual("mid_block2", widths[-1], widths[-1])
    residual("final_res_block", 2 * dim, dim)
    layer("final_conv", outs, dim, 1, 1)
    return shapes


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random values that keep features of size one: gains around 1, others by fan-in."""
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, dtype=torch.float64)
        if name.endswith(".g"):
            value = 1 + 0.3 * value
        elif name.endswith(".bias"):
            value = 0.1 * value
        elif name.endswith(".weight"):
            value = value / math.sqrt(math.prod(shape[1:]))
        weights[name] = value
    return weights


def published_output(w: Weights, x: Tensor, step: Tensor, heads: int = 4) -> Tensor:
    """S4, line by line; whatever differs between the levels is read from the names of the weights."""
    batch, dim = len(x), w["init_conv.weight"].shape[0]
    levels = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("downs."))

    def conv(name: str, h: Tensor) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(h, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def unit(gain: Tensor, h: Tensor) -> Tensor:
        return h / h.pow(2).sum(1, keepdim=True).sqrt() * gain * h.shape[1] ** 0.5

    def silu(h: Tensor) -> Tensor:
        return h / (1 + torch.exp(-h))

    frequencies = torch.tensor([10_000.0 ** (-j / (dim // 2 - 1)) for j in range(dim // 2)], dtype=torch.float64)
    angles = step.double().outer(frequencies)
    time = torch.cat([torch.sin(angles), torch.cos(angles)], 1) @ w["time_mlp.1.weight"].T + w["time_mlp.1.bias"]
    time = time * (1 + torch.erf(time / 2**0.5)) / 2
    time = time @ w["time_mlp.3.weight"].T + w["time_mlp.3.bias"]

    def residual(name: str, h: Tensor) -> Tensor:
        out = unit(w[f"{name}.block1.norm.g"], conv(f"{name}.block1.proj", h))
        projected = silu(time) @ w[f"{name}.mlp.1.weight"].T + w[f"{name}.mlp.1.bias"]
        channels = out.shape[1]
        out = silu(out * (projected[:, :channels, None, None] + 1) + projected[:, channels:, None, None])
        out = silu(unit(w[f"{name}.block2.norm.g"], conv(f"{name}.block2.proj", out)))
        return out + (conv(f"{name}.res_conv", h) if f"{name}.res_conv.weight" in w else h)

    def attention(name: str, h: Tensor) -> Tensor:
        is_full = f"{name}.to_out.weight" in w
        side = h.shape[2:]
        tokens = unit(w[f"{name}.norm.g"], h).flatten(2)
        qkv = torch.einsum("oc,bcn->bon", w[f"{name}.to_qkv.weight"][:, :, 0, 0], tokens)
        memory = w[f"{name}.mem_kv"]
        size = qkv.shape[1] // 3 // heads
        outs = []
        for head in range(heads):
            q, k, v = (qkv[:, (part * heads + head) * size : (part * heads + head + 1) * size] for part in range(3))
            own_k, own_v = (m[head].T if is_full else m[head] for m in memory)
            k = torch.cat([own_k.expand(batch, -1, -1), k], 2)
            v = torch.cat([own_v.expand(batch, -1, -1), v], 2)
            if is_full:
                scores = torch.exp(torch.einsum("bdi,bdj->bij", q, k) / size**0.5)
                outs.append(torch.einsum("bij,bej->bei", scores / scores.sum(2, keepdim=True), v))
            else:
                q, k = q.exp() / q.exp().sum(1, keepdim=True), k.exp() / k.exp().sum(2, keepdim=True)
                outs.append(torch.einsum("bdi,bdj,bej->bei", q, k, v) / size**0.5)
        out = torch.cat(outs, 1).reshape(batch, -1, *side)
        out = conv(f"{name}.to_out", out) if is_full else conv(f"{name}.to_out.0", out)
        return h + (out if is_full else unit(w[f"{name}.to_out.1.g"], out))

    h = stem = conv("init_conv", x)
    skips = []
    for i in range(levels):
        h = residual(f"downs.{i}.0", h)
        skips.append(h)
        h = attention(f"downs.{i}.2", residual(f"downs.{i}.1", h))
        skips.append(h)
        if i < levels - 1:
            quarters = [h[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
            h = conv(f"downs.{i}.3.1", torch.stack(quarters, 2).flatten(1, 2))
        else:
            h = conv(f"downs.{i}.3", h)
    h = residual("mid_block2", attention("mid_attn", residual("mid_block1", h)))
    for i in range(levels):
        for j in range(2):
            h = residual(f"ups.{i}.{j}", torch.cat([h, skips.pop()], 1))
        h = attention(f"ups.{i}.2", h)
        if i < levels - 1:
            h = conv(f"ups.{i}.3.1", h.repeat_interleave(2, 2).repeat_interleave(2, 3))
        else:
            h = conv(f"ups.{i}.3", h)
    return conv("final_conv", residual("final_res_block", torch.cat([h, stem], 1)))


def small(in_channels: int = 3, out_channels: int = 3, **options: Any) -> LucidrainsUNet:
    """A network of a few thousand parameters, in evaluation mode."""
    torch.manual_seed(0)
    return LucidrainsUNet(in_channels, out_channels, **(SMALL | options)).eval()


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    """Noise and timesteps."""
    make = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=make), 1000 * torch.rand(shape[0], generator=make)


def count(net: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize(("in_channels", "published"), [(3, 35_711_491), (6, 35_720_899)])
def test_published_parameter_count(in_channels: int, published: int) -> None:
    """The demonstration, without and with self-conditioning; the layer table adds up to the same number."""
    with torch.device("meta"):
        assert count(LucidrainsUNet(in_channels, 3)) == published
    assert sum(math.prod(s) for s in published_shapes(in_channels, 3, 64, (1, 2, 4, 8)).values()) == published


@pytest.mark.parametrize(
    ("channels", "self_conditioning", "size", "dim", "mults", "options"),
    [
        (3, False, (8, 16), 64, (1, 2, 4, 8), {}),
        (3, True, (16, 8), 16, (1, 2, 4, 8), {}),
        (1, False, (28, 28), 16, (1, 2, 4, 8), {}),
        (1, True, (9, 14), 8, (2, 3, 5), {}),
        (1, False, (7, 5), 8, (3,), {}),
        (3, False, (12, 8), 8, (1, 2, 2), {"full": (True, False, True), "heads": 2, "head_dim": 8}),
    ],
)
def test_equals_the_published_layers(
    channels: int,
    self_conditioning: bool,
    size: tuple[int, int],
    dim: int,
    mults: tuple[int, ...],
    options: dict[str, Any],
) -> None:
    """The same weights give the same output, in float64; images of other sides lie in the middle of zeros."""
    ins, heads = channels * (1 + self_conditioning), options.get("heads", 4)
    weights = random_weights(published_shapes(ins, channels, dim, mults, **options))
    ours = LucidrainsUNet(
        ins,
        channels,
        width=dim,
        multipliers=mults,
        full_attention=options.get("full"),
        heads=heads,
        head_dim=options.get("head_dim", 32),
    )
    ours = ours.double().eval()
    ours.load_state_dict(weights_from_published(weights, self_conditioning))

    x, step = torch.randn(2, channels, *size, dtype=torch.float64), torch.tensor([3.0, 871.0], dtype=torch.float64)
    previous = torch.randn_like(x).clamp(-1, 1)
    theirs = torch.cat([previous, x], 1) if self_conditioning else x
    more = [-side % 2 ** (len(mults) - 1) for side in size]
    top, left = (m // 2 for m in more)
    theirs = F.pad(theirs, (left, more[1] - left, top, more[0] - top))
    with torch.no_grad():
        expected = published_output(weights, theirs, step, heads)[..., top : top + size[0], left : left + size[1]]
        out = ours(torch.cat([x, previous], 1) if self_conditioning else x, step)
    assert expected.std() > 0.1
    torch.testing.assert_close(out, expected, atol=1e-9, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("self_conditioning", [False, True])
def test_network_of_the_recipe_equals_the_published_layers(self_conditioning: bool) -> None:
    """The recipe ``unet`` in float64, without and with self-conditioning."""
    weights = random_weights(published_shapes(6 if self_conditioning else 3, 3, 64, (1, 2, 4, 8)))
    recipe = recipes.load("unet", {"loss.self_conditioning": self_conditioning})
    network = build(recipe, DatasetInfo((3, 128, 128)), device="meta").denoiser.network.eval()
    network.load_state_dict(weights_from_published(weights, self_conditioning), assign=True)
    x, step = torch.randn(1, 3, 16, 16, dtype=torch.float64), torch.tensor([871.0], dtype=torch.float64)
    previous = torch.randn_like(x)
    with torch.no_grad():
        expected = published_output(weights, torch.cat([previous, x], 1) if self_conditioning else x, step, 4)
        out = network(torch.cat([x, previous], 1) if self_conditioning else x, step)
    assert expected.std() > 0.1
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("self_conditioning", [False, True])
def test_equals_the_package(self_conditioning: bool) -> None:
    """The same weights in denoising-diffusion-pytorch's Unet, where it is installed, give the same output."""
    package = import_lucidrains()
    torch.manual_seed(0)
    theirs = package.Unet(64, dim_mults=(1, 2, 4, 8), channels=3, self_condition=self_conditioning).eval()
    ours = LucidrainsUNet(6 if self_conditioning else 3, 3).eval()
    ours.load_state_dict(weights_from_published(theirs.state_dict(), self_conditioning))
    x, previous, step = torch.randn(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.tensor([3, 871])
    with torch.no_grad():
        expected = theirs(x, step, previous if self_conditioning else None)
        out = ours(torch.cat([x, previous], 1) if self_conditioning else x, step.float())
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@given(st.integers(1, 21), st.integers(1, 21), st.sampled_from([1, 2, 4]))
@settings(deadline=None, max_examples=10)
def test_any_size_and_channels(height: int, width: int, channels: int) -> None:
    """Every height, width and number of channels, here with a learned variance."""
    x, t = batch(2, channels, height, width)
    with torch.no_grad():
        out = small(channels, 2 * channels)(x, t)
    assert out.shape == (2, 2 * channels, height, width)
    assert out.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"classes": 3}, {"memory_kv": 0}, {"full_attention": (True, True, False)}])
def test_gradient_reaches_every_parameter(options: dict[str, Any]) -> None:
    """Training in several processes needs a gradient of every parameter."""
    net = small(**options).train()
    x, t = batch(5, 3, 12, 8)
    cond = torch.tensor([-1, 0, 1, 2, -1]) if "classes" in options else None
    (net(x, t, cond) * torch.randn(5, 3, 12, 8)).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


def test_attributes() -> None:
    """NaN is unknown and equals cond=None; each image has its own attributes."""
    net = small(attributes=((5.0, 2.0), (0.0, 1.0)))
    x, t = batch(1, 3, 8, 8)
    x, t = x.expand(3, -1, -1, -1), t.expand(3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
        mixed = net(x, t, torch.tensor([[math.nan, 1.0], [5.0, 0.0], [7.0, 0.0]]))
        torch.testing.assert_close(mixed[0], net(x, t)[0])
    assert (mixed[1] - mixed[0]).abs().max() > 1e-4
    assert (mixed[1] - mixed[2]).abs().max() > 1e-4


def test_classes_add_one_table() -> None:
    """No class is row 0 for None and -1 alike; each image has its own class; 0 classes cost no parameter."""
    net = small(classes=2)
    assert count(net) - count(small()) == 3 * 4 * 8
    x, t = batch(1, 3, 8, 8)
    x, t = x.expand(3, -1, -1, -1), t.expand(3)
    with torch.no_grad():
        none = net(x, t)
        assert torch.equal(net(x, t, torch.full((3,), -1)), none)
        mixed = net(x, t, torch.tensor([-1, 0, 1]))
    torch.testing.assert_close(mixed[0], none[0])
    assert (mixed[1] - mixed[0]).abs().max() > 1e-4
    assert (mixed[1] - mixed[2]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="unconditional"):
        small()(x, t, torch.tensor([0, 0, 0]))


def test_images_of_a_batch_are_independent() -> None:
    """The output of one image has no derivative with respect to another image or its timestep."""
    x, t = batch(3, 3, 8, 8)
    x.requires_grad_()
    t.requires_grad_()
    small()(x, t)[1].sum().backward()
    assert x.grad is not None and t.grad is not None
    for grad in (x.grad, t.grad):
        assert grad[1].any() and not grad[0].any() and not grad[2].any()


def test_dropout_only_in_training() -> None:
    """Two passes differ in training and agree in evaluation."""
    net = small(dropout=0.5)
    x, t = batch(2, 3, 8, 8)
    assert torch.equal(net(x, t), net(x, t))
    net.train()
    assert not torch.equal(net(x, t), net(x, t))


def test_precisions_and_memory_formats() -> None:
    """float32 agrees with float64 to rounding, channels_last as well, and bfloat16 autocast is close."""
    net = small()
    x, t = batch(2, 3, 16, 16)
    with torch.no_grad():
        single = net(x, t)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x, t)
        net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        last = net(x.to(memory_format=torch.channels_last), t)
        double = net.double()(x.double(), t.double())
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)
    torch.testing.assert_close(last, single, atol=1e-4, rtol=0)
    assert half.isfinite().all()
    assert (half.float() - single).std() < 0.1 * single.std()


def test_compiles_as_one_graph() -> None:
    """torch.compile finds no graph break, with classes and padding."""
    net = small(classes=3)
    x, t = batch(2, 3, 9, 12)
    cond = torch.tensor([0, -1])
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, cond), net(x, t, cond))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels=0 is too small; use 1 or more"),
        ({"out_channels": 0}, "out_channels=0"),
        ({"width": 3}, "width=3 is too small; use 4 or more"),
        ({"multipliers": ()}, "levels=0"),
        ({"multipliers": (1, 0)}, "multipliers=0"),
        ({"full_attention": (True,)}, "full_attention=(True,) must have one entry per level: 3, not 1"),
        ({"heads": 0}, "heads=0"),
        ({"head_dim": 0}, "head_dim=0"),
        ({"memory_kv": -1}, "memory_kv=-1 is too small; use 0 or more"),
        ({"dropout": 1.0}, "dropout=1.0 must lie in [0, 1)"),
        ({"theta": 0.0}, "theta=0.0"),
        ({"classes": -1}, "classes=-1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    """The message names the option, its value and what is possible."""
    with pytest.raises(ValueError) as error:
        small(**({"in_channels": 3, "out_channels": 3} | options))
    assert message in str(error.value)
