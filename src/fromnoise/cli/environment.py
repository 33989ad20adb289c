"""How the process of a command waits and keeps memory; imports no torch, whose threads read the environment."""

from __future__ import annotations

import ctypes
import os


def set_environment() -> None:
    """Set what must be set before torch is imported; what the user has set stays."""
    # threads that spin while they wait slow each other down many times over where the cores have other work too; for
    # a moment they may, which saves waking them between the short operations of a small network
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if not any(key.startswith("MALLOC_") for key in os.environ):
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed, which is wanted again a step later (benchmarks/allocator.py)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # as malloc.h numbers them
    for parameter, value in ((trim_threshold, 2**31 - 1), (top_pad, 2**26), (mmap_threshold, 2**30)):
        mallopt(parameter, value)
