"""The local cache of remote shards: a folder with a limit, from which the least recently used files are removed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fromnoise.data.download import cache_folder
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import private_folder
from fromnoise.utils.locks import lock_folder, unlock_folder
from fromnoise.utils.reading import UnreadableFile, open_regular

CACHE_GB = "FROMNOISE_CACHE_GB"
"""Environment variable: the most GiB of remote shards that are kept on the disk."""
_DEFAULT_GB = 20.0
_SPARED = 0.1  # part of the free disk that is not used
_STALE = 24 * 3600.0  # seconds after which the file of a killed process is removed
_POLL = 0.2  # seconds between looks at a lock

Fetch = Callable[[Path], None]
"""Writes the content of a shard to a path."""


def cache_limit() -> int:
    """Bytes of remote shards that are kept.

    Raises:
        UserError: the environment variable is not a number.
    """
    text = os.environ.get(CACHE_GB)
    try:
        value = float(text) if text else _DEFAULT_GB
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise UserError(f"{CACHE_GB}={text} must be a number of GiB, 0 or more")
    return int(value * 2**30)


class ShardCache:
    """Files by an identity, in a folder of this user's; several processes share it."""

    def __init__(self) -> None:
        """Create the folder.

        Raises:
            UserError: it cannot be created, or belongs to another user.
        """
        try:
            self._folder = private_folder(cache_folder() / "shards")
        except OSError as error:
            raise UserError(
                f"cannot keep remote shards ({error.strerror or error}); name another cache in FROMNOISE_CACHE"
            ) from None
        self._limit = cache_limit()

    def room(self, needed: int) -> bool:
        """Whether a set of ``needed`` bytes fits: below the limit, and with what is kept already on the disk."""
        kept = sum(size for _, size, _ in self._files())
        free = shutil.disk_usage(self._folder).free
        return needed <= min(self._limit, kept + int((1 - _SPARED) * free))

    def open(self, identity: str, size: int, fetch: Fetch, *, exact: bool = True) -> BinaryIO:
        """Open the file of an identity; it is fetched by one process, for which the others wait.

        An open file can be read after another one has taken its room.

        Args:
            identity: address, size and digest or time of change.
            size: its bytes.
            exact: whether the file must have this size; otherwise it is an estimate.
            fetch: fetches it to a path, and raises an exception if it is incomplete.

        Raises:
            UserError: the disk is full.
        """
        name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        path = self._folder / name
        expected = size if exact else None
        found = self._open(path, expected)
        if found is not None:
            return found
        with self._locked(name):
            found = self._open(path, expected)  # another process may have fetched it
            if found is not None:
                return found
            self._make_room(size)
            temporary = self._folder / f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
            try:
                fetch(temporary)
                file = open_regular(temporary)
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except OSError as error:
                raise UserError(
                    f"cannot keep a shard in {self._folder}: {error.strerror or error}; name another cache in "
                    f"FROMNOISE_CACHE, or lower {CACHE_GB}"
                ) from None
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
        return file

    @staticmethod
    def _open(path: Path, size: int | None) -> BinaryIO | None:
        """Open a file and mark it as used now; None if it is not there, whole."""
        try:
            file = open_regular(path)
        except UnreadableFile:
            return None
        if size is not None and os.fstat(file.fileno()).st_size != size:
            file.close()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return file

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        folder = self._folder / f"{name}.lock"
        handle = None
        while True:
            try:
                folder.mkdir(exist_ok=True)
                handle = lock_folder(folder)
                break
            except (FileNotFoundError, FileExistsError):  # its holder has just removed it
                continue
            except BlockingIOError:
                time.sleep(_POLL)
        try:
            yield
        finally:
            unlock_folder(folder, handle, remove=True)
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of use, size and path of each file."""
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):  # removed by another process
                status = path.stat()
                if path.suffix == ".tmp" and time.time() - status.st_mtime > _STALE:
                    path.unlink()
                elif path.is_file() and not path.name.startswith("."):
                    found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    def _make_room(self, size: int) -> None:
        """Remove the least recently used files until ``size`` more bytes are within the limit."""
        files = self._files()
        kept = sum(s for _, s, _ in files)
        for _, own, path in files:
            if kept + size <= self._limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                kept -= own
