"""The fused group normalization in C against torch's operations: output, gradients, independence of the batch."""

import os
import runpy
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


needed = pytest.mark.skipif(build.library("group_norm") is None, reason="needs Linux, gcc and torch's OpenMP")


def reference(
    x: Tensor, weight: Tensor, bias: Tensor, options: GroupNormOptions, modulation: list[Tensor | None]
) -> Tensor:
    addend, scale, shift = modulation
    if addend is not None:
        x = x + addend[:, :, None, None]
    y = torch.group_norm(x, options.groups, weight, bias, options.eps)
    if scale is not None and shift is not None:
        y = y * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return F.silu(y) if options.silu else y


def inputs(shape: tuple[int, ...], which: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor | None]]:
    """Random (x, weight, bias) and (addend, scale, shift)."""
    torch.manual_seed(0)
    batch, channels = shape[:2]
    x = (3 * torch.randn(shape) + 2).to(dtype).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(channels), torch.randn(channels)
    scale, shift = (v.to(dtype) for v in torch.randn(batch, 2 * channels).chunk(2, 1))
    modulation: dict[str, list[Tensor | None]] = {
        "nothing": [None, None, None],
        "addend": [scale, None, None],
        "scale-shift": [None, scale, shift],
        "both": [scale, shift, -scale],
    }
    return [x, weight, bias], modulation[which]


@needed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape, groups", [((3, 32, 7, 7), 8), ((2, 24, 33, 17), 8), ((4, 6, 5, 1), 3)])
@pytest.mark.parametrize("which", ["nothing", "addend", "scale-shift", "both"])
@pytest.mark.parametrize("silu", [True, False])
def test_output_and_gradients_equal_torch(
    dtype: torch.dtype, shape: tuple[int, ...], groups: int, which: str, silu: bool
) -> None:
    """Relative difference to float64 below 1e-6 in float32, and below the rounding of the output in bfloat16."""
    tensors, modulation = inputs(shape, which, dtype)
    leaves = tensors + [v for v in modulation if v is not None]
    options, results = GroupNormOptions(groups, 1e-5, silu), []
    for cast in (dtype, torch.float64):
        copies = [v.detach().clone().to(cast if cast == torch.float64 else v.dtype).requires_grad_() for v in leaves]
        rest = iter(copies[3:])
        parts = [None if v is None else next(rest) for v in modulation]
        if cast == dtype:
            assert can_fuse(copies[0])
            y = fused_group_norm(*copies[:3], options, *parts)
            assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
        else:
            y = reference(*copies[:3], options, parts)
        weight = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype)
        results.append([y.detach(), *torch.autograd.grad(y, copies, weight)])
    limit = 1e-6 if dtype == torch.float32 else 6e-3
    for found, expected in zip(*results, strict=True):
        assert float((found.double() - expected).norm() / expected.norm()) < limit


@needed
def test_groups_of_one_value() -> None:
    """Their variance is 0: the output is SiLU of the bias, and the gradient with respect to the input is 0."""
    x = torch.randn(1, 8, 1, 1).to(memory_format=torch.channels_last).requires_grad_()
    bias = torch.randn(8)
    out = fused_group_norm(x, torch.ones(8), bias, GroupNormOptions(8, 1e-5, True))
    torch.testing.assert_close(out.flatten(), F.silu(bias))
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert float(grad.abs().max()) < 1e-3


@needed
def test_images_and_threads_are_independent() -> None:
    """The output and the gradient of an image are bit-identical in any batch and with any number of threads."""
    (x, weight, bias), modulation = inputs((6, 16, 9, 9), "both", torch.float32)
    options, found = GroupNormOptions(4, 1e-5, True), []
    for threads, part in ((1, slice(None)), (2, slice(None)), (1, slice(2, 3))):
        torch.set_num_threads(threads)
        leaf = x[part].clone(memory_format=torch.channels_last).requires_grad_()
        out = fused_group_norm(leaf, weight, bias, options, *[v if v is None else v[part] for v in modulation])
        (grad,) = torch.autograd.grad(out.square().sum(), leaf)
        found.append((out.detach(), grad) if part != slice(None) else (out.detach()[2:3], grad[2:3]))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needed
def test_nan_and_extreme_values() -> None:
    """A NaN spreads within its group and to no other image; SiLU is exact to rounding for inputs of any size."""
    (x, weight, bias), modulation = inputs((2, 8, 4, 4), "nothing", torch.float32)
    x[0, 0, 1, 1] = torch.nan
    out = fused_group_norm(x, weight, bias, GroupNormOptions(2, 1e-5, True), *modulation)
    assert out[0, :4].isnan().all() and out[0, 4:].isfinite().all() and out[1].isfinite().all()
    extreme = torch.tensor([-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30])
    y = fused_group_norm(torch.zeros(1, 7, 1, 1), torch.ones(7), extreme, GroupNormOptions(7, 1e-5, True)).flatten()
    torch.testing.assert_close(y, F.silu(extreme), atol=1e-7, rtol=1e-6)


@needed
@pytest.mark.parametrize("conditioning", ["add", "scale-shift"])
def test_unet_with_and_without_the_kernel(conditioning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and all gradients agree to float32 rounding; a second backward pass gives the same gradients."""
    torch.manual_seed(0)
    net = UNet(3, 3, width=16, multipliers=(1, 2), size=(16, 16), attention_resolutions=(8,), conditioning=conditioning)
    net = net.to(memory_format=torch.channels_last)
    x, t = torch.randn(4, 3, 16, 16).to(memory_format=torch.channels_last), torch.rand(4)
    found = []
    for use_kernel in (True, False):
        if not use_kernel:
            monkeypatch.setattr(layers, "can_fuse", lambda x: False)
        out = net(x, t)
        weights = list(net.parameters())
        once = torch.autograd.grad(out.square().sum(), weights, retain_graph=True)
        twice = torch.autograd.grad(out.square().sum(), weights)
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
        found.append([out.detach(), *once])
    for a, b in zip(*found, strict=True):
        assert float((a - b).norm()) <= 2e-5 * float(b.norm()) + 1e-6


def test_unsupported_inputs_are_not_fused() -> None:
    """Other memory formats, dtypes and devices, and empty batches."""
    x = torch.randn(2, 8, 4, 4)
    assert not can_fuse(x)
    x = x.to(memory_format=torch.channels_last)
    assert not can_fuse(x.double()) and not can_fuse(x[:0]) and not can_fuse(x.to("meta"))


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without gcc, or if gcc fails, the result is None and not an error."""
    load = build.library.__wrapped__  # without its cache
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load("group_norm") is None
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    assert load("group_norm") is None


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
    assert not can_fuse(x) and calls == ["group_norm"]  # this library cannot be built


@pytest.mark.parametrize(("switch", "expected"), [("1", True), ("0", False), ("", False)])
def test_environment_switch(switch: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """FROMNOISE_KERNELS=1 enables the kernels without a call of ``enable``; it is read when the module is imported."""
    monkeypatch.setenv("FROMNOISE_KERNELS", switch)
    assert runpy.run_module("fromnoise.networks.kernels.build")["enabled"]() is expected


@needed
def test_two_processes_compile_at_the_same_time(tmp_path: Path) -> None:
    """Both load the library, and the cache has one library and its digest afterwards."""
    line = "from fromnoise.networks.kernels.build import library; assert library('group_norm') is not None"
    environment = os.environ | {"FROMNOISE_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([sys.executable, "-c", line], env=environment) for _ in range(2)]
    assert [p.wait(120) for p in processes] == [0, 0]
    assert sorted(file.suffix for file in (tmp_path / "kernels").iterdir()) == [".sha256", ".so"]
