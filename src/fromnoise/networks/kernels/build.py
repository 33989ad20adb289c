"""Compile a C file for this processor and cache the library; without a compiler torch's own operations run.

The library uses torch's threads: its OpenMP calls go to the OpenMP library that torch has loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_FLAGS = (
    *("-O3", "-march=native", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-std=c11"),
    "-ffp-contract=fast",  # fused multiply-add, which -std=c11 disables
    *(("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()),
)
_SWITCH = "FROMNOISE_KERNELS"
_state = {"enabled": os.environ.get(_SWITCH) == "1"}


def enable() -> None:
    """Use the C kernels in this process from now on, unless FROMNOISE_KERNELS is 0; the first use compiles them."""
    _state["enabled"] = os.environ.get(_SWITCH) != "0"


def disable() -> None:
    """Use torch's own operations in this process from now on."""
    _state["enabled"] = False


def enabled() -> bool:
    """Whether the C kernels are used where they can be compiled."""
    return _state["enabled"]


@functools.cache
def library(name: str, *defines: str) -> ctypes.CDLL | None:
    """Load ``name``.c from this folder, compiled; None where there is no Linux, no gcc or no OpenMP in torch.

    Args:
        name: name of the C file without its suffix.
        defines: preprocessor macros to define.
    """
    if platform.system() != "Linux":
        return None
    compiler, threads = shutil.which("gcc"), _openmp()
    if compiler is None or threads is None:
        return None
    source = Path(__file__).with_name(f"{name}.c")
    try:
        ctypes.CDLL(threads, mode=ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(_compile(compiler, source, defines)))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # a missing home folder is a RuntimeError
        return None


def _openmp() -> str | None:
    """Path of the OpenMP library that torch has loaded; other packages may load their own."""
    import torch

    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = {Path(line.split(maxsplit=5)[-1].strip()) for line in maps if "/" in line}
    loaded = [p for p in sorted(paths) if p.name.startswith(("libgomp", "libiomp5"))]
    folder = Path(torch.__file__).parent
    torchs = [p for p in loaded if folder in p.parents or folder.with_name("torch.libs") in p.parents]
    return next((str(p) for p in torchs or loaded), None)


def _compile(compiler: str, source: Path, defines: tuple[str, ...]) -> Path:
    """Path of the shared library, compiled unless the cache has it.

    Its name contains a hash of the source, the compiler, the flags and the processor.
    """
    text = source.read_bytes()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=20).stdout
    key = hashlib.sha256(b"\0".join([text, version, _processor(), *(d.encode() for d in (*_FLAGS, *defines))]))
    folder = Path(os.environ.get("FROMNOISE_CACHE") or Path.home() / ".cache" / "fromnoise").expanduser() / "kernels"
    library_path = folder / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if library_path.exists():
        return library_path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        obj, lib = Path(scratch) / "a.o", Path(scratch) / "a.so"
        macros = [f"-D{d}" for d in defines]
        # two commands: linking without -fopenmp, so that no other OpenMP library is loaded
        for command in ([*_FLAGS, *macros, "-c", str(source), "-o", str(obj)], ["-shared", str(obj), "-o", str(lib)]):
            subprocess.run([compiler, *command, "-lm"], capture_output=True, check=True, timeout=120)
        os.replace(lib, library_path)
    return library_path


def _processor() -> bytes:
    """Properties of the processor that -march=native depends on: machines may share a home folder."""
    with open("/proc/cpuinfo", "rb") as info:
        lines = [line for line in info if line.startswith((b"model name", b"flags", b"Features", b"CPU part"))]
    return platform.machine().encode() + b"".join(sorted(set(lines)))
