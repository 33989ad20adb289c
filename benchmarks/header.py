"""What benchmarks share: the header with hardware, versions, date and command, and a recipe that they change."""

from __future__ import annotations

import os
import platform
import sys
from datetime import date
from pathlib import Path

import torch

import fromnoise

GENERAL_UNET = str(Path(__file__).with_name("general_unet.toml"))
"""The recipe that benchmarks of the general U-Net change."""


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def header() -> str:
    """Three lines that describe where and how the numbers below them were measured."""
    gpu = f"; {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "; no GPU"
    return "\n".join(
        [
            f"{date.today()}  {' '.join(['python', *sys.argv])}",
            f"{_cpu()}, {os.cpu_count()} cores{gpu}",
            f"fromnoise {fromnoise.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        ]
    )
