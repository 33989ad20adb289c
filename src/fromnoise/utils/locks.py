"""Directories that one process at a time may write in."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from fromnoise.utils.errors import UserError

LOCK = ".lock"
"""Name of the file that locks a directory."""


def lock_folder(folder: Path) -> int | None:
    """Lock a directory against other processes, by a file in it.

    Returns:
        A handle for ``unlock_folder``; the end of the process releases it too. None where the system or the disk has
        no locks.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the lock cannot be created.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    path = folder / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), os.stat(path)):
            raise BlockingIOError  # removed by its holder, and created again by a third process
    except BlockingIOError:
        os.close(handle)
        raise
    except FileNotFoundError:
        os.close(handle)
        raise BlockingIOError from None
    except OSError:  # some network file systems have no locks
        os.close(handle)
        return None
    with contextlib.suppress(OSError):  # on a full disk the lock holds without a name
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()} {socket.gethostname()}\n".encode())
    return handle


def lock_holder(folder: Path) -> int | None:
    """The process on this machine that holds the lock of a directory.

    Returns:
        Its number; None if no process holds the lock, or one of another machine does.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        number, _, machine = os.read(handle, 400).decode(errors="replace").strip().partition(" ")
        if machine != socket.gethostname() or not number.isdecimal():
            return None
        os.kill(int(number), 0)  # first, so that the lock of a process that has ended is not touched
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(number)
    except (OSError, OverflowError):
        return None
    finally:
        os.close(handle)
    return None


def unlock_folder(folder: Path, handle: int | None, remove: bool = False) -> None:
    """Release a lock of ``lock_folder``.

    Args:
        folder: which is locked.
        handle: of the lock.
        remove: also remove the lock's file.
    """
    if handle is None:
        return
    if remove:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
    os.close(handle)


def is_free(folder: Path) -> bool:
    """Whether a path does not exist, or is an empty directory; whether it is locked does not matter."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(entry.name == LOCK for entry in folder.iterdir())


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from writing in a folder.

    Raises:
        UserError: one does, or the folder cannot be written.
    """
    try:
        lock = lock_folder(folder)
    except BlockingIOError:
        raise UserError(f"another process is writing in {folder}: wait for it") from None
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}") from None
    try:
        yield
    finally:
        unlock_folder(folder, lock, remove=True)


@contextlib.contextmanager
def reserved_folder(candidates: Iterable[Path]) -> Iterator[Path]:
    """Create the first directory that is empty and that no other process has reserved; it is reserved in the block.

    If nothing was written into it, it is removed at the end.

    Args:
        candidates: the directories, in order.

    Raises:
        UserError: there is none, or it cannot be created.
    """
    folder = None
    for folder in candidates:
        if not is_free(folder):
            continue
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = lock_folder(folder)
        except BlockingIOError:
            continue
        except OSError as error:
            raise UserError(f"cannot write in {folder}: {error.strerror}; choose another folder") from None
        try:
            if is_free(folder):  # it may have been written in before it was locked
                yield folder
                return
        finally:
            unlock_folder(folder, handle, remove=True)
            with contextlib.suppress(OSError):  # a folder that is not empty stays, and those above it
                for path in missing:
                    path.rmdir()
    raise UserError(f"{folder} is not empty, or another process is writing in it: choose another --out")
