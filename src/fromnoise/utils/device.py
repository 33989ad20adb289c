"""The device, precision and memory layout of the network, which are selected in this place alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class ComputeConfig:
    """A device, and how a network runs on it.

    Attributes:
        device: of weights and images.
        dtype: of the network's arithmetic; float32 disables autocast. Weights, losses and samplers stay in float32.
        memory_format: of convolution weights and images.
    """

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format = torch.channels_last

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Run the network in ``dtype``.

        The cache of cast weights is disabled: one that is filled under ``no_grad`` would detach them from the gradient.
        """
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False):
            yield

    def to_device(self, module: nn.Module) -> nn.Module:
        """Move a network to the device, in the memory format."""
        return module.to(self.device).to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]

    def describe(self) -> str:
        """Device and precision in a few words."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{name} in {str(self.dtype).removeprefix('torch.')}{threads}"


def select_device(device: str | torch.device | None = None, precision: str = "auto") -> ComputeConfig:
    """Select a device and a precision.

    Args:
        device: "cpu", "cuda", "cuda:1" or "mps"; None selects the fastest that is available.
        precision: "auto" (bf16 if the hardware computes in it), "bf16" or "fp32".

    Raises:
        UserError: the device is not available, or the precision is unknown.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        selected = torch.device(device)
        torch.zeros(1, device=selected).item()
    except (RuntimeError, AssertionError):
        raise UserError(f"device {str(device)!r} is not available: use --device cpu") from None
    if precision not in ("auto", "bf16", "fp32"):
        raise UserError(f"unknown precision {precision!r}: use auto, bf16 or fp32")
    bf16 = precision == "bf16" or (precision == "auto" and _has_bf16(selected))
    return ComputeConfig(selected, torch.bfloat16 if bf16 else torch.float32)


def _has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes in bf16, which some only emulate."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return any(
            bool(getattr(torch.cpu, probe, bool)()) for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
    return False
