"""Threads and memory of the process of a command; does not import torch, whose threads read the environment."""

from __future__ import annotations

import ctypes
import os


def set_environment() -> None:
    """Set environment variables that must be set before torch is imported; those that the user has set are kept."""
    # threads that spin while they wait make each other much slower on cores that are shared with other processes;
    # a short spin avoids waking them between the short operations of a small network
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if os.environ.get("WORLD_SIZE", "1") != "1":  # a rank that is lost is one line of ours, not many frames of C++
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not any(key.startswith("MALLOC_") for key in os.environ):
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, which the next training step allocates again (benchmarks/allocator.py)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # numbers of the parameters in malloc.h
    for parameter, value in ((trim_threshold, 2**31 - 1), (top_pad, 2**26), (mmap_threshold, 2**30)):
        mallopt(parameter, value)
