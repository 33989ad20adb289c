"""Compile a C file for this processor and cache the library; without a compiler torch's own operations run.

The library uses torch's threads: its OpenMP calls go to the OpenMP library that torch has loaded.

A library is code, so the cache is private: a directory of the user's own with mode 0700, and each library beside its
digest. What does not match its digest is compiled again, and a directory that other users can change is not used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

_FLAGS = (
    *("-O3", "-march=native", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-std=c11"),
    "-ffp-contract=fast",  # fused multiply-add, which -std=c11 disables
    *(("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()),
)
_SWITCH = "FROMNOISE_KERNELS"
_LARGEST_LIBRARY = 16 << 20  # bytes
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

    Warns once if the cache cannot be used.

    Args:
        name: name of the C file without its suffix.
        defines: preprocessor macros to define.
    """
    if platform.system() != "Linux":
        return None
    compiler, threads = shutil.which("gcc"), _openmp()
    if compiler is None or threads is None:
        return None
    try:
        ctypes.CDLL(threads, mode=ctypes.RTLD_GLOBAL)
        return _load(compiler, name, defines)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # a missing home folder is a RuntimeError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"torch runs in place of the C kernel {name}: {reason}", RuntimeWarning, stacklevel=2)
        return None


def identity(name: str, *defines: str) -> str:
    """What computes an operation in this process: the kernel's name with its hash, or "torch".

    Two results with one identity were computed by the same instructions.
    """
    if not enabled() or library(name, *defines) is None:
        return "torch"
    return f"{name}-{_key(shutil.which('gcc') or '', name, defines)}"


def _openmp() -> str | None:
    """Path of the OpenMP library that torch has loaded; other packages may load their own."""
    import torch

    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = {Path(line.split(maxsplit=5)[-1].strip()) for line in maps if "/" in line}
    loaded = [p for p in sorted(paths) if p.name.startswith(("libgomp", "libiomp5"))]
    folder = Path(torch.__file__).parent
    torchs = [p for p in loaded if folder in p.parents or folder.with_name("torch.libs") in p.parents]
    return next((str(p) for p in torchs or loaded), None)


@functools.cache
def _key(compiler: str, name: str, defines: tuple[str, ...]) -> str:
    """Hash of the source, the compiler, the flags and the processor, in 16 hexadecimal digits."""
    text = _source(name).read_bytes()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=20).stdout
    key = hashlib.sha256(b"\0".join([text, version, _processor(), *(d.encode() for d in (*_FLAGS, *defines))]))
    return key.hexdigest()[:16]


def _source(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.c")


def _load(compiler: str, name: str, defines: tuple[str, ...]) -> ctypes.CDLL:
    """Load a library from the cache; it is compiled first if the cache has none that matches its digest.

    Raises:
        OSError: the cache cannot be used, or the library cannot be loaded.
        subprocess.SubprocessError: the compiler failed.
    """
    import fcntl

    file_name = f"{name}-{_key(compiler, name, defines)}.so"
    with private_folder(_cache()) as folder:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)  # one process compiles, the others wait and load
        handle = _open_verified(folder, file_name)
        if handle is None:
            _compile(compiler, name, defines, file_name)
            handle = _open_verified(folder, file_name)
    if handle is None:
        raise OSError(f"the compiled kernel in {_cache()} was changed while it was being loaded")
    # The handle stays open: the loader takes libraries of one path for one library, and handles are numbered.
    return ctypes.CDLL(f"/proc/self/fd/{handle}")


def _cache() -> Path:
    return Path(os.environ.get("FROMNOISE_CACHE") or Path.home() / ".cache" / "fromnoise").expanduser() / "kernels"


@contextlib.contextmanager
def private_folder(path: Path) -> Iterator[int]:
    """Open a directory that only this user can change, created if it does not exist.

    One that other users could write before is emptied of kernels, and closed to them.

    Yields:
        A descriptor of the directory.

    Raises:
        OSError: it is a link or not a directory, or belongs to another user.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:  # a link too, with O_DIRECTORY
        raise OSError(f"{path} is a link or a file, not a directory: remove it") from None
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid():
            raise OSError(f"{path} belongs to another user: set FROMNOISE_CACHE to a directory of your own")
        if stat.S_IMODE(status.st_mode) != 0o700:
            os.fchmod(folder, 0o700)
        if status.st_mode & 0o022:  # others may have put files here, with digests
            for name in os.listdir(folder):
                if name.endswith((".so", ".sha256")):
                    os.unlink(name, dir_fd=folder)
        yield folder
    finally:
        os.close(folder)


def _open_verified(folder: int, name: str) -> int | None:
    """Open a library of the cache; None if it is missing, not a file of this user's, or differs from its digest."""
    try:
        content, handle = _read_own(folder, name)
    except OSError:
        return None
    try:
        digest, other = _read_own(folder, f"{name}.sha256")
        os.close(other)
    except OSError:
        digest = b""
    if hashlib.sha256(content).hexdigest().encode() == digest:
        return handle
    os.close(handle)
    return None


def _read_own(folder: int, name: str) -> tuple[bytes, int]:
    """Content and descriptor of a regular file of this user's.

    Raises:
        OSError: it is something else, or too large.
    """
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size > _LARGEST_LIBRARY:
        os.close(handle)
        raise OSError(f"{name} is not a file of this user's")
    with os.fdopen(os.dup(handle), "rb") as file:
        return file.read(_LARGEST_LIBRARY), handle


def _compile(compiler: str, name: str, defines: tuple[str, ...], file_name: str) -> None:
    """Compile a library into the cache, with its digest; both are flushed to the disk before they get their names."""
    folder = _cache()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        obj, lib, digest = (Path(scratch) / name for name in ("a.o", "a.so", "a.sha256"))
        macros = [f"-D{d}" for d in defines]
        # two commands: linking without -fopenmp, so that no other OpenMP library is loaded
        for command in (
            [*_FLAGS, *macros, "-c", str(_source(name)), "-o", str(obj)],
            ["-shared", str(obj), "-o", str(lib)],
        ):
            subprocess.run([compiler, *command, "-lm"], capture_output=True, check=True, timeout=120)
        digest.write_text(hashlib.sha256(lib.read_bytes()).hexdigest())
        for path, final in ((lib, file_name), (digest, f"{file_name}.sha256")):
            with path.open("rb") as file:
                os.fsync(file.fileno())
            if (folder / final).is_dir():
                shutil.rmtree(folder / final)
            os.replace(path, folder / final)


def _processor() -> bytes:
    """Properties of the processor that -march=native depends on: machines may share a home folder."""
    with open("/proc/cpuinfo", "rb") as info:
        lines = [line for line in info if line.startswith((b"model name", b"flags", b"Features", b"CPU part"))]
    return platform.machine().encode() + b"".join(sorted(set(lines)))
