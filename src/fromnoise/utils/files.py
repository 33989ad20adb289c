"""Files that are written, atomically or by appending lines, and checks whether a path can be written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fromnoise.utils.errors import UserError

TEMPORARY = ".*.tmp"
"""Pattern of the temporary files of ``write_atomic``, which a killed process leaves."""


@contextlib.contextmanager
def flushed(path: Path) -> Iterator[BinaryIO]:
    """Create or empty a file for writing; at the end its content is flushed to the disk.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` completely or not at all.

    Raises:
        UserError: the disk is full, or the folder cannot be written; an existing file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with flushed(temporary) as file:
            file.write(data)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {e.strerror}{_unchanged(path)}") from None


def append(path: Path, lines: bytes, to_disk: bool = False) -> None:
    """Append lines to a regular file, all of them or none.

    If the file ends within a line, as a killed process leaves it, the lines begin after it.

    Args:
        path: of the file, which is created if it does not exist.
        lines: complete lines.
        to_disk: flush the file to the disk.

    Raises:
        OSError: the disk is full, or it is not a regular file that can be written.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0), 0o666)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        size = status.st_size
        if size:
            os.lseek(handle, -1, os.SEEK_END)
            if os.read(handle, 1) != b"\n":
                lines = b"\n" + lines
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(handle, rest) :]
            if to_disk:
                os.fsync(handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def _unchanged(path: Path) -> str:
    try:
        return f"; the existing {path.name} is unchanged" if path.exists() else ""
    except OSError:
        return ""


def private_folder(path: Path) -> Path:
    """Create a folder that only this user can change, with its parents.

    Raises:
        OSError: it is a link or no folder, belongs to another user, or others can write in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise OSError(f"{path} is a link or a file, not a folder: remove it")
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise OSError(f"{path} belongs to another user, or others can write in it: remove it")
    return path


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_file(path: Path, suffix: str = "") -> None:
    """Check that a file can be written, before the computation of its content. Nothing is created.

    Args:
        path: of the file.
        suffix: which its name must have, such as ``.png``.

    Raises:
        UserError: the name has another suffix, the path is a folder, or the folder cannot be written.
    """
    if not path.name.lower().endswith(suffix):
        raise UserError(f"{path} must be a {suffix} file: use a name that ends in {suffix}")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it")
    check_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"cannot write {path}: it is read-only; choose another name")


def check_folder(path: Path) -> None:
    """Check that a folder exists or can be created, and that files can be written in it. Nothing is created.

    Raises:
        UserError: it cannot.
    """
    existing = path.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"cannot write in {path}: {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write in {path}: permission denied; choose another folder")
