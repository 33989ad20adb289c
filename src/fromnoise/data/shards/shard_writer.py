"""Writes one shard: a .tar file, its digest and its index, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from fromnoise.data.shards.index import IndexBuilder
from fromnoise.data.shards.manifest import INDEX_SUFFIX, Shard
from fromnoise.data.shards.tar_members import Member
from fromnoise.utils.files import flushed, sync_folder, write_atomic

_BLOCK = 512
_END = 20 * _BLOCK  # tar writes whole records of this size


class ShardWriter:
    """The shard that is being written.

    Attributes:
        size: bytes so far.
        images: number of images so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Write into an empty file."""
        self._file, self._digest, self._index = file, hashlib.sha256(), IndexBuilder()
        self.size = self.images = 0

    def add(
        self, key: str, suffix: str, content: bytes, label: int | None, attributes: Mapping[str, float] | None
    ) -> None:
        """Add an image with its label and attributes.

        Args:
            key: name of the sample.
            suffix: of the image's file, such as ``.png``.
            content: of the image's file.
            label: index of its class; None if it is unknown.
            attributes: its numbers by name; None if they are unknown.
        """
        offset = self._member(key + suffix, content)
        if label is not None:
            self._member(f"{key}.cls", str(label).encode())
        if attributes is not None:
            self._member(f"{key}.json", json.dumps(dict(attributes)).encode())
        self._index.add(Member(key + suffix, offset, len(content)), label, attributes or {})
        self.images += 1

    def _member(self, name: str, content: bytes) -> int:
        """Write a file; returns where its content begins."""
        # dates and owners are 0, so that the same data are packed into the same bytes
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o644
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(content)
        self._write(bytes(-len(content) % _BLOCK))
        return offset

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def finish(self) -> tuple[str, bytes]:
        """Write the end mark; returns the digest of the shard, and the content of its index."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self.size % _END))
        return self._digest.hexdigest(), self._index.build().to_bytes()


def write_shard(path: Path, fill: Callable[[ShardWriter], int], split: str, first: int) -> Shard:
    """Write a shard and its index under temporary names, which are removed after an error; then rename them.

    Args:
        path: of the shard.
        fill: adds images; returns the number in the source after the last one.
        split: of the images.
        first: number of the first image in the source.

    Returns:
        The entry of the shard in the list.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with flushed(temporary) as file:
            writer = ShardWriter(file)
            stop = fill(writer)
            sha256, index = writer.finish()
        write_atomic(path.with_name(path.name + INDEX_SUFFIX), index)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return Shard(path.name, writer.images, writer.size, sha256, split, first, stop)
