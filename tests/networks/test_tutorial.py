"""PulferUNet and SimpleUNet against the layer tables of their sources, written out in functional torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks import PulferUNet, SimpleUNet

Weights = Mapping[str, Tensor]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in any order of the tests."""
    torch.manual_seed(0)


def count(net: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def perturbed(net: nn.Module) -> nn.Module:
    """The network with noise added to every parameter, norms included, in evaluation mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return net.eval()


def conv(w: Weights, name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    """Convolution with the weights of this name."""
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding)


def conv_transposed(w: Weights, name: str, x: Tensor, stride: int, padding: int) -> Tensor:
    """Transposed convolution with the weights of this name."""
    return F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """Linear layer with the weights of this name."""
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def pulfer_level(w: Weights, name: str, x: Tensor, time: Tensor, norms: tuple[bool, ...] = (True,) * 3) -> Tensor:
    """MLP of the time embedding, added to the input; three times LayerNorm, conv, SiLU, conv, SiLU."""
    projected = linear(w, f"{name}.time.2", F.silu(linear(w, f"{name}.time.0", time)))
    x = x + projected.reshape(len(x), -1, 1, 1)
    for i, has_norm in enumerate(norms, start=1):
        block = f"{name}.block{i}"
        if has_norm:
            x = F.layer_norm(x, x.shape[1:], w[f"{block}.norm.weight"], w[f"{block}.norm.bias"])
        x = F.silu(conv(w, f"{block}.conv1", x))
        x = F.silu(conv(w, f"{block}.conv2", x))
    return x


def pulfer_literal(w: Weights, x: Tensor, step: Tensor) -> Tensor:
    """The layer table of S1, line by line, at 28x28."""
    n = len(x)
    j = torch.arange(100)
    frequency = 10_000.0 ** (-2 * (j - j % 2) / 100)
    angle = step[:, None] * frequency
    time = torch.where(j % 2 == 0, torch.sin(angle), torch.cos(angle))

    a = pulfer_level(w, "level1", x, time)
    assert a.shape == (n, 10, 28, 28)
    b = pulfer_level(w, "level2", conv(w, "down1", a, 2, 1), time)
    assert b.shape == (n, 20, 14, 14)
    c = pulfer_level(w, "level3", conv(w, "down2", b, 2, 1), time)
    assert c.shape == (n, 40, 7, 7)
    d = conv(w, "down3.2", F.silu(conv(w, "down3.0", c, 1, 0)), 2, 1)
    assert d.shape == (n, 40, 3, 3)
    d = pulfer_level(w, "middle", d, time)
    assert d.shape == (n, 40, 3, 3)
    up = conv_transposed(w, "up1.2", F.silu(conv_transposed(w, "up1.0", d, 2, 1)), 1, 0)
    e = pulfer_level(w, "level4", torch.cat((c, up), 1), time)
    assert e.shape == (n, 20, 7, 7)
    f = pulfer_level(w, "level5", torch.cat((b, conv_transposed(w, "up2", e, 2, 1)), 1), time)
    assert f.shape == (n, 10, 14, 14)
    g = torch.cat((a, conv_transposed(w, "up3", f, 2, 1)), 1)
    g = pulfer_level(w, "level6", g, time, norms=(True, True, False))
    return conv(w, "out", g)


def test_pulfer_parameter_count() -> None:
    """506,852 trainable parameters, and 606,852 with the table of sinusoids, which is not trained."""
    net = PulferUNet()
    assert count(net) == 506_852
    assert sum(v.numel() for v in net.state_dict().values()) == 606_852
    assert net.table.shape == (1000, 100)
    assert not net.table.requires_grad


def test_pulfer_equals_its_layer_table() -> None:
    """The same weights give the same output, in double precision."""
    net = perturbed(PulferUNet()).double()
    x, step = torch.randn(3, 1, 28, 28, dtype=torch.float64), torch.tensor([0.0, 17.0, 999.0])
    with torch.no_grad():
        expected = pulfer_literal(net.state_dict(), x, step.double())
        torch.testing.assert_close(net(x, step), expected, atol=1e-4, rtol=1e-4)


def test_pulfer_interpolates_between_timesteps() -> None:
    """Half-way between two timesteps it uses the mean of two rows; outside the range, the first or last row."""
    net = perturbed(PulferUNet())
    assert isinstance(net, PulferUNet)
    x = torch.randn(1, 1, 28, 28)
    with torch.no_grad():
        half, first, last = (net(x, torch.tensor([step])) for step in (41.5, 0.0, 999.0))
        assert torch.equal(net(x, torch.tensor([-1.0])), first)
        assert torch.equal(net(x, torch.tensor([2000.0])), last)
        table = net.get_buffer("table")
        table[7] = (table[41] + table[42]) / 2
        torch.testing.assert_close(net(x, torch.tensor([7.0])), half)


def test_pulfer_refuses_other_sizes_and_conditions() -> None:
    """Images of another size, a condition, and options that are too small."""
    net = PulferUNet()
    with pytest.raises(ValueError, match="28x28 pixels, not 32x28"):
        net(torch.zeros(1, 1, 32, 28), torch.zeros(1))
    with pytest.raises(ValueError, match="unconditional"):
        net(torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.tensor([1]))
    invalid: list[dict[str, Any]] = [
        {"in_channels": 0, "out_channels": 0},
        {"size": (28, 0)},
        {"timesteps": 0},
        {"time_dim": 0},
    ]
    for options in invalid:
        with pytest.raises(ValueError, match="too small"):
            PulferUNet(**options)


def test_pulfer_gradient_reaches_every_parameter() -> None:
    """Training in several processes needs a gradient of every parameter; that of the unused norm is zero."""
    net = perturbed(PulferUNet()).train()
    net(torch.randn(2, 1, 28, 28), torch.tensor([3.0, 500.0])).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.any()) != name.startswith("level6.block3.norm"), name


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=15)
def test_any_size_and_channels(height: int, width: int, channels: int) -> None:
    """HF#3630, DD#232, DD#42: any size and channel count, square or not."""
    x, t = torch.randn(2, channels, height, width), torch.tensor([3.0, 4.5])
    with torch.no_grad():
        for net in (PulferUNet(channels, channels, size=(height, width)), SimpleUNet(channels, channels)):
            out = net(x, t)
            assert out.shape == x.shape
            assert out.isfinite().all()


def simple_block(w: Weights, name: str, x: Tensor, time: Tensor) -> Tensor:
    """conv, ReLU, GroupNorm(8); plus Linear(time); conv, ReLU, GroupNorm(8)."""
    x = F.relu(conv(w, f"{name}.conv1", x))
    x = F.group_norm(x, 8, w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"])
    x = x + linear(w, f"{name}.time", time)[..., None, None]
    x = F.relu(conv(w, f"{name}.conv2", x))
    return F.group_norm(x, 8, w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"])


def simple_literal(w: Weights, x: Tensor, step: Tensor) -> Tensor:
    """The layer table of S2, line by line, for 28x28 padded to 32x32."""
    n = len(x)
    angle = step[:, None] * torch.exp(-torch.arange(16) * torch.log(torch.tensor(10_000.0)) / 15)
    time = F.relu(linear(w, "time", torch.cat((angle.sin(), angle.cos()), 1)))
    pool, up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    a = simple_block(w, "down1", F.pad(x, (2, 2, 2, 2)), time)
    b = simple_block(w, "down2", pool(a), time)
    c = simple_block(w, "down3", pool(b), time)
    d = simple_block(w, "middle", pool(c), time)
    assert d.shape == (n, 128, 4, 4)
    d = simple_block(w, "up3", torch.cat((up(d), c), 1), time)
    d = simple_block(w, "up2", torch.cat((up(d), b), 1), time)
    d = simple_block(w, "up1", torch.cat((up(d), a), 1), time)
    return conv(w, "out", d, padding=0)[..., 2:30, 2:30]


def test_simple_parameter_count() -> None:
    """0.86 million parameters, the sum over the layer table."""

    def block(ins: int, outs: int) -> int:
        return (9 * ins * outs + outs) + 2 * outs + (32 * outs + outs) + (9 * outs * outs + outs) + 2 * outs

    blocks = [(1, 32), (32, 64), (64, 128), (128, 128), (256, 64), (128, 32), (64, 32)]
    expected = (32 * 32 + 32) + sum(block(*b) for b in blocks) + (32 + 1)
    assert count(SimpleUNet()) == expected
    assert round(expected / 1e6, 2) == 0.86


def test_simple_equals_its_layer_table() -> None:
    """The same weights give the same output."""
    net = perturbed(SimpleUNet())
    x, step = torch.randn(3, 1, 28, 28), torch.tensor([0.0, 17.5, 999.0])
    with torch.no_grad():
        torch.testing.assert_close(net(x, step), simple_literal(net.state_dict(), x, step), atol=1e-4, rtol=1e-4)


def test_simple_gradients_and_condition() -> None:
    """Every parameter has a gradient; a condition is refused."""
    net = perturbed(SimpleUNet()).train()
    net(torch.randn(2, 1, 28, 28), torch.tensor([3.0, 500.0])).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    with pytest.raises(ValueError, match="unconditional"):
        net(torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.tensor([1]))


@pytest.mark.parametrize("make", [PulferUNet, SimpleUNet])
def test_precisions_and_memory_formats(make: type[PulferUNet] | type[SimpleUNet]) -> None:
    """float64 and channels_last agree with float32 to rounding; bfloat16 autocast is finite and close."""
    net = perturbed(make())
    x, t = torch.randn(2, 1, 28, 28), torch.tensor([3.0, 500.0])
    with torch.no_grad():
        single = net(x, t)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = net(x, t)
        channels_last = net(x.to(memory_format=torch.channels_last), t)
        double = net.double()(x.double(), t)
    torch.testing.assert_close(single.double(), double, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(channels_last, single, atol=1e-4, rtol=1e-4)
    assert autocast.isfinite().all()
    assert (autocast.float() - single).std() < 0.1 * single.std()


@pytest.mark.parametrize("make", [PulferUNet, SimpleUNet])
def test_images_of_a_batch_are_independent(make: type[PulferUNet] | type[SimpleUNet]) -> None:
    """The output of one image has no derivative with respect to another image."""
    x = torch.randn(3, 1, 28, 28, requires_grad=True)
    perturbed(make())(x, torch.tensor([1.0, 2.0, 3.0]))[1].sum().backward()
    assert x.grad is not None
    assert x.grad[1].any() and not x.grad[0].any() and not x.grad[2].any()


def test_pulfer_gradients_in_channels_last() -> None:
    """LayerNorm is computed differently in channels_last; output and gradients are the same to rounding."""
    net, x = PulferUNet(2, 2, size=(28, 28)), torch.randn(3, 2, 28, 28)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    outs, grads = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        net.zero_grad()
        out = net(x.contiguous(memory_format=layout), torch.tensor([0.0, 5.0, 999.0]))
        out.square().mean().backward()
        outs.append(out.detach())
        grads.append({n: p.grad.clone() for n, p in net.named_parameters()})
    assert torch.allclose(*outs, atol=1e-5)
    assert all(torch.allclose(g, grads[1][n], rtol=1e-3, atol=1e-6) for n, g in grads[0].items())


@pytest.mark.parametrize("make", [PulferUNet, SimpleUNet])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 10}, "is unconditional, without classes or attributes: use network unet"),
        ({"attributes": ((0.0, 1.0),)}, "is unconditional, without classes or attributes: use network unet"),
        ({"in_channels": 2}, "no self-conditioning and no learned variance, so in_channels=2 and out_channels=1"),
        ({"out_channels": 2}, "no self-conditioning and no learned variance, so in_channels=1 and out_channels=2"),
    ],
)
def test_missing_features_are_refused(
    make: type[PulferUNet] | type[SimpleUNet], options: dict[str, Any], message: str
) -> None:
    """The message names what the network lacks and which network has it."""
    with pytest.raises(ValueError) as error:
        make(**options)
    assert message in str(error.value)
