"""The header of every benchmark: hardware, versions, date, command."""

from __future__ import annotations

import os
import platform
import sys
from datetime import date
from pathlib import Path

import torch

import fromnoise


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
