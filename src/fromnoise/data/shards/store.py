"""Where shards are stored: on a disk here; remote ones are in ``remote``."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar, final

from fromnoise.data.download import cache_folder
from fromnoise.data.formats.numpy_files import read_npz
from fromnoise.data.shards.index import ShardIndex, index_from_arrays, index_tar
from fromnoise.data.shards.manifest import INDEX_SUFFIX, Manifest
from fromnoise.data.source import Log
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import private_folder, write_atomic
from fromnoise.utils.reading import UnreadableFile, decoding, first_line, open_regular

KEPT_OPEN = 256
"""Shards that stay open; the files of others are opened for every read."""
_ANNOUNCED = 2.0  # seconds of indexing after which a line is logged


class Store(ABC):
    """The shards of a set.

    Attributes:
        names: of the shards, in order.
        manifest: the list beside them; None if there is none.
        is_remote: whether ``prefetch`` does anything.
    """

    is_remote: ClassVar[bool] = False
    names: tuple[str, ...]
    manifest: Manifest | None

    @abstractmethod
    def index(self, k: int) -> ShardIndex:
        """The index of shard ``k``, from a file or by walking through it.

        Raises:
            UnreadableFile: the shard is missing, damaged or truncated.
        """

    @abstractmethod
    def read(self, k: int, offset: int, size: int) -> bytes:
        """Read a part of shard ``k``; safe to use from several threads.

        Raises:
            UserError: the shard does not hold it any more, or cannot be reached.
        """

    def prefetch(self, parts: Sequence[tuple[int, int, int]]) -> None:  # noqa: B027  a disk needs no hint
        """Fetch parts (shard, offset, size) that are read next, together."""


class OpenFiles:
    """Shards on the disk, of which the first few stay open; safe to use from several threads."""

    def __init__(self, opener: Callable[[int], BinaryIO], kept: int = KEPT_OPEN) -> None:
        """Nothing is opened.

        Args:
            opener: opens the file of a shard; may fetch it.
            kept: number of files that stay open.
        """
        self._opener, self._kept = opener, kept
        self._files: dict[int, BinaryIO] = {}
        self._lock = threading.Lock()

    def is_open(self, k: int) -> bool:
        """Whether shard ``k`` is open."""
        return k in self._files

    def open(self, k: int) -> BinaryIO:
        """Open shard ``k``; the caller closes it if it is not kept open.

        Raises:
            UserError: it is missing, or cannot be read.
        """
        try:
            file = self._opener(k)
        except UnreadableFile as error:  # not the error of one image, which would be left out
            raise UserError(f"{error}; restore it and run the same command again") from None
        with self._lock:
            if len(self._files) < self._kept and k not in self._files:
                self._files[k] = file
        return file

    def fetch(self, k: int) -> None:
        """Fetch shard ``k``, and keep it open if few are.

        Raises:
            UserError: it cannot be read.
        """
        file = self.open(k)
        if self._files.get(k) is not file:
            file.close()

    def read(self, k: int, name: object, offset: int, size: int) -> bytes:
        """Read a part of shard ``k``.

        Args:
            k: number of the shard.
            name: of the shard, for messages.
            offset: of the part in bytes.
            size: of the part in bytes.

        Raises:
            UserError: the file has become shorter, or cannot be read.
        """
        kept = self._files.get(k)
        file = kept or self.open(k)
        try:
            if hasattr(os, "pread"):
                content = os.pread(file.fileno(), size, offset)
            else:
                with self._lock:
                    file.seek(offset)
                    content = file.read(size)
        except OSError as error:
            raise UserError(f"cannot read '{name}': {error.strerror or error}; check the disk and run again") from None
        finally:
            if self._files.get(k) is not file:
                file.close()
        if len(content) < size:
            raise UserError(
                f"'{name}' has become shorter since it was indexed: restore it and run the same command again"
            )
        return content


def cached_index(identity: str, size: int, build: Callable[[], ShardIndex], log: Log) -> ShardIndex:
    """An index from the cache, or a new one, which is put there.

    The cache is a folder that only this user can change; an entry is used for a shard of the same address, size and
    time of change alone.

    Args:
        identity: of the shard as it is now.
        size: of the shard in bytes.
        build: makes the index.
        log: takes a line if the cache cannot be used.
    """
    name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:40]
    try:
        path = private_folder(cache_folder() / "shard-index") / f"{name}{INDEX_SUFFIX}"
    except OSError as error:
        log(f"indices of shards are not kept: {error.strerror or error}")
        return build()
    if path.exists():
        try:
            return read_index(path, size)
        except UnreadableFile:
            pass  # damaged: it is written again
    found = build()
    if len(found):
        try:
            write_atomic(path, found.to_bytes())
        except UserError as error:
            log(f"the index of a shard is not kept: {error}")
    return found


def read_index(path: Path, size: int) -> ShardIndex:
    """Read the index of a shard of ``size`` bytes.

    Raises:
        UnreadableFile: it is damaged, or of another shard.
    """
    with decoding(path, "an index of a shard", "remove it"):
        return index_from_arrays(read_npz(path), size)


@final
class LocalStore(Store):
    """Shards in a folder of this machine."""

    def __init__(self, root: Path, names: Sequence[str], manifest: Manifest | None, log: Log) -> None:
        """Name the shards; nothing is read.

        Args:
            root: their folder.
            names: their files, relative to it.
            manifest: the list beside them.
            log: takes a line if indexing takes long.
        """
        self._root, self.names, self.manifest, self._log = root, tuple(names), manifest, log
        self._known = {s.name: s for s in manifest.shards} if manifest is not None else {}
        self._paths = [root / name for name in names]
        self._open = OpenFiles(lambda k: open_regular(self._paths[k]))
        self._indexing = 0.0  # seconds

    def index(self, k: int) -> ShardIndex:
        """See ``Store``."""
        name, path = self.names[k], self._paths[k]
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
        known = self._known.get(name)
        if known is not None and known.size is not None and known.size != status.st_size:
            raise UnreadableFile(path, f"it has {status.st_size:,} of {known.size:,} bytes")
        beside = path.with_name(path.name + INDEX_SUFFIX)
        if known is not None and known.sha256 and beside.exists():
            found = read_index(beside, status.st_size)
        else:
            identity = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
            found = cached_index(identity, status.st_size, lambda: self._scan(path, status.st_size), self._log)
        if known is not None and known.images is not None and known.images != len(found):
            raise UnreadableFile(path, f"it holds {len(found):,} of {known.images:,} images")
        return found

    def _scan(self, path: Path, size: int) -> ShardIndex:
        begin = time.monotonic()
        with open_regular(path) as file:
            found = scan(file, path, size)
        before, self._indexing = self._indexing, self._indexing + time.monotonic() - begin
        if before < _ANNOUNCED <= self._indexing:
            self._log(f"'{self._root}': indexing the shards, once")
        return found

    def read(self, k: int, offset: int, size: int) -> bytes:
        """See ``Store``."""
        return self._open.read(k, self._paths[k], offset, size)


def scan(file: BinaryIO, name: str | Path, size: int) -> ShardIndex:
    """Index an open shard.

    Raises:
        UnreadableFile: it is no .tar file, or is damaged or truncated.
    """
    try:
        return index_tar(file, size)
    except (ValueError, OSError) as error:
        raise UnreadableFile(name, first_line(error)) from None
