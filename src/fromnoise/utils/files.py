"""Atomic writes, and checks whether a path can be written."""

from __future__ import annotations

import os
from pathlib import Path

from fromnoise.utils.errors import UserError


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` completely or not at all.

    Raises:
        UserError: the disk is full, or the folder cannot be written; an existing file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as e:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass
        raise UserError(f"cannot write {path}: {e.strerror}{_unchanged(path)}") from None


def _unchanged(path: Path) -> str:
    try:
        return f"; the existing {path.name} is unchanged" if path.exists() else ""
    except OSError:
        return ""


def _sync_folder(folder: Path) -> None:
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
