"""Files that are whole or not there at all."""

from __future__ import annotations

import os
from pathlib import Path

from fromnoise.utils.errors import UserError


def write_atomic(path: Path, data: bytes) -> None:
    """Put ``data`` under ``path``, whole or not at all.

    Raises:
        UserError: the disk is full, or the folder cannot be written; what stood there before still stands.
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
        raise UserError(f"cannot write {path}: {e.strerror}{_untouched(path)}") from None


def _untouched(path: Path) -> str:
    try:
        return f"; the {path.name} that was there is untouched" if path.exists() else ""
    except OSError:
        return ""


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_file(path: Path, ending: str = "") -> None:
    """Look whether a file could be written, before the work that fills it.

    Args:
        path: of the file.
        ending: that its name must have, as in ``.png``.

    Raises:
        UserError: its name ends otherwise, it is a folder, or the folder it would go to cannot be written.
    """
    if not path.name.lower().endswith(ending):
        raise UserError(f"{path} would not be what its name says: take a name that ends in {ending}")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it")
    check_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"cannot write {path}: it is read-only")


def check_folder(path: Path) -> None:
    """Look whether a folder is there or could be made, and files written in it. Nothing is made yet.

    Raises:
        UserError: it could not.
    """
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"cannot write in {path}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"cannot write in {path}: permission denied")
