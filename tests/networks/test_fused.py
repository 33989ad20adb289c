"""The normalisation in C against torch's own operations, in value, gradient and what it does not depend on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fromnoise.networks import kernels, layers
from fromnoise.networks.kernels import build, group_norm
from fromnoise.networks.kernels.group_norm import GroupNormOptions, can_fuse, fused_group_norm
from fromnoise.networks.unet import UNet


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def enabled():
    before = kernels.enabled()
    kernels.enable()
    yield
    if not before:
        kernels.disable()


needed = pytest.mark.skipif(build.library("norm") is None, reason="needs Linux, gcc and torch's OpenMP")


def plain(x: Tensor, weight: Tensor, bias: Tensor, config: GroupNormOptions, told: list[Tensor | None]) -> Tensor:
    plus, scale, shift = told
    if plus is not None:
        x = x + plus[:, :, None, None]
    y = torch.group_norm(x, config.groups, weight, bias, config.eps)
    if scale is not None and shift is not None:
        y = y * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return F.silu(y) if config.silu else y


def inputs(shape: tuple[int, ...], which: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor | None]]:
    torch.manual_seed(0)
    batch, channels = shape[:2]
    x = (3 * torch.randn(shape) + 2).to(dtype).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(channels), torch.randn(channels)
    scale, shift = (v.to(dtype) for v in torch.randn(batch, 2 * channels).chunk(2, 1))
    told = {"nothing": [None] * 3, "addend": [scale, None, None], "both": [scale, shift, -scale]}
    told["scale-shift"] = [None, scale, shift]
    return [x, weight, bias], told[which]


@needed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape, groups", [((3, 32, 7, 7), 8), ((2, 24, 33, 17), 8), ((4, 6, 5, 1), 3)])
@pytest.mark.parametrize("which", ["nothing", "addend", "scale-shift", "both"])
@pytest.mark.parametrize("act", [True, False])
def test_value_and_gradients(dtype: torch.dtype, shape: tuple[int, ...], groups: int, which: str, act: bool) -> None:
    """As torch's in float64, to 1e-6 in float32 and to the rounding of what comes out in bfloat16."""
    leaves, told = inputs(shape, which, dtype)
    given = leaves + [v for v in told if v is not None]
    config, results = GroupNormOptions(groups, 1e-5, act), []
    for cast in (dtype, torch.float64):
        mine = [v.detach().clone().to(cast if cast == torch.float64 else v.dtype).requires_grad_() for v in given]
        rest = iter(mine[3:])
        parts = [None if v is None else next(rest) for v in told]
        if cast == dtype:
            assert can_fuse(mine[0])
            y = fused_group_norm(*mine[:3], config, *parts)
            assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
        else:
            y = plain(*mine[:3], config, parts)
        weight = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype)
        results.append([y.detach(), *torch.autograd.grad(y, mine, weight)])
    limit = 1e-6 if dtype == torch.float32 else 6e-3
    for found, expected in zip(*results, strict=True):
        assert float((found.double() - expected).norm() / expected.norm()) < limit


@needed
def test_a_group_of_one_value() -> None:
    """It has no spread: what comes out is SiLU of the bias, and nothing flows back."""
    x = torch.randn(1, 8, 1, 1).to(memory_format=torch.channels_last).requires_grad_()
    bias = torch.randn(8)
    out = fused_group_norm(x, torch.ones(8), bias, GroupNormOptions(8, 1e-5, True))
    torch.testing.assert_close(out.flatten(), F.silu(bias))
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert float(slope.abs().max()) < 1e-3


@needed
def test_depends_on_the_image_alone() -> None:
    """An image's output and gradient are the same bits in any batch and with any number of threads."""
    (x, weight, bias), told = inputs((6, 16, 9, 9), "both", torch.float32)
    config, found = GroupNormOptions(4, 1e-5, True), []
    for threads, part in ((1, slice(None)), (2, slice(None)), (1, slice(2, 3))):
        torch.set_num_threads(threads)
        mine = x[part].clone(memory_format=torch.channels_last).requires_grad_()
        out = fused_group_norm(mine, weight, bias, config, *[v if v is None else v[part] for v in told])
        (slope,) = torch.autograd.grad(out.square().sum(), mine)
        found.append((out.detach(), slope) if part != slice(None) else (out.detach()[2:3], slope[2:3]))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needed
def test_not_a_number_shows() -> None:
    """A NaN spoils its own group, and no other image."""
    (x, weight, bias), told = inputs((2, 8, 4, 4), "nothing", torch.float32)
    x[0, 0, 1, 1] = torch.nan
    out = fused_group_norm(x, weight, bias, GroupNormOptions(2, 1e-5, True), *told)
    assert out[0, :4].isnan().all() and out[0, 4:].isfinite().all() and out[1].isfinite().all()
    far = torch.tensor([-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30])
    y = fused_group_norm(torch.zeros(1, 7, 1, 1), torch.ones(7), far, GroupNormOptions(7, 1e-5, True)).flatten()
    torch.testing.assert_close(y, F.silu(far), atol=1e-7, rtol=1e-6)


@needed
@pytest.mark.parametrize("conditioning", ["add", "scale-shift"])
def test_a_network_is_the_same(conditioning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A U-Net with and without it: outputs and all gradients agree to float32; a graph can be gone back twice."""
    torch.manual_seed(0)
    net = UNet(3, 3, width=16, multipliers=(1, 2), size=(16, 16), attention_resolutions=(8,), conditioning=conditioning)
    net = net.to(memory_format=torch.channels_last)
    x, clock = torch.randn(4, 3, 16, 16).to(memory_format=torch.channels_last), torch.rand(4)
    found = []
    for switched in (True, False):
        if not switched:
            monkeypatch.setattr(layers, "can_fuse", lambda x: False)
        out = net(x, clock)
        weights = list(net.parameters())
        once = torch.autograd.grad(out.square().sum(), weights, retain_graph=True)
        twice = torch.autograd.grad(out.square().sum(), weights)
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
        found.append([out.detach(), *once])
    for a, b in zip(*found, strict=True):
        assert float((a - b).norm()) <= 2e-5 * float(b.norm()) + 1e-6


def test_left_to_torch() -> None:
    """Other layouts, kinds of numbers and empty batches go another way."""
    x = torch.randn(2, 8, 4, 4)
    assert not can_fuse(x)
    x = x.to(memory_format=torch.channels_last)
    assert not can_fuse(x.double()) and not can_fuse(x[:0]) and not can_fuse(x.to("meta"))


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No gcc, or a gcc that fails: None, and no error."""
    again = build.library.__wrapped__
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert again("norm") is None
    bad = tmp_path / "gcc"
    bad.write_text("#!/bin/sh\nexit 1\n")
    bad.chmod(0o755)
    assert again("norm") is None


def test_off_until_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are neither used nor compiled before ``enable``; FROMNOISE_KERNELS=0 keeps them off."""
    x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    calls: list[str] = []
    monkeypatch.setattr(group_norm, "library", lambda name, *defines: calls.append(name))
    kernels.disable()
    assert not can_fuse(x) and calls == []
    monkeypatch.setenv("FROMNOISE_KERNELS", "0")
    kernels.enable()
    assert not can_fuse(x) and calls == []
    monkeypatch.delenv("FROMNOISE_KERNELS")
    kernels.enable()
    assert not can_fuse(x) and calls == ["norm"]  # this library cannot be built


@pytest.mark.parametrize(("switch", "expected"), [("1", "True"), ("0", "False"), ("", "False")])
def test_environment_switch(switch: str, expected: str) -> None:
    """FROMNOISE_KERNELS=1 enables the kernels without a call of ``enable``."""
    line = "from fromnoise.networks import kernels; print(kernels.enabled())"
    environment = os.environ | {"FROMNOISE_KERNELS": switch}
    out = subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True, check=True, text=True)
    assert out.stdout.strip() == expected


@needed
def test_kept_for_the_next_time(tmp_path: Path) -> None:
    """Two processes that begin together build it once or twice, use it, and leave one file."""
    line = "from fromnoise.networks.kernels.build import library; assert library('norm') is not None"
    environment = {"FROMNOISE_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([sys.executable, "-c", line], env=environment) for _ in range(2)]
    assert [p.wait(120) for p in both] == [0, 0]
    (left,) = (tmp_path / "kernels").iterdir()
    assert left.suffix == ".so"
