"""Where and in what precision the network runs: the one place that looks at the hardware."""

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
        dtype: of the network's arithmetic; float32 leaves autocast off. Weights, losses and samplers stay float32.
        memory_format: of convolution weights and images.
    """

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format = torch.channels_last

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Run the network in ``dtype``.

        Without the cache of cast weights: one filled under ``no_grad`` would cut them off from the gradient.
        """
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False):
            yield

    def to_device(self, module: nn.Module) -> nn.Module:
        """Move a network here, in its memory format."""
        return module.to(self.device).to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]

    def describe(self) -> str:
        """Device and precision in a few words."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{name} in {str(self.dtype).removeprefix('torch.')}{threads}"


def select_device(device: str | torch.device | None = None, precision: str = "auto") -> ComputeConfig:
    """The hardware at hand.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps"; None takes the best there is.
        precision: "auto" (bf16 where the hardware has it), "bf16" or "fp32".

    Raises:
        UserError: the device is not there, or the precision is unknown.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        where = torch.device(device)
        torch.zeros(1, device=where).item()
    except (RuntimeError, AssertionError):
        raise UserError(f"there is no device {str(device)!r} here: try --device cpu") from None
    if precision not in ("auto", "bf16", "fp32"):
        raise UserError(f"precision {precision!r} is unknown: take auto, bf16 or fp32")
    fast = precision == "bf16" or (precision == "auto" and _has_bf16(where))
    return ComputeConfig(where, torch.bfloat16 if fast else torch.float32)


def _has_bf16(device: torch.device) -> bool:
    """Whether bf16 has units of its own, not only an emulation."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return any(
            bool(getattr(torch.cpu, probe, bool)()) for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
    return False
