"""Shards in an object store, through fsspec: ``s3://bucket/folder``, ``http://host/name-{000..012}.tar``, ...

Parquet files are in ``remote_tables``.

A set that fits in the cache is fetched shard by shard, when a shard is first needed, and checked by its digest. Of a
larger set only the parts that hold the images of a batch are fetched, several at a time.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, final

from fromnoise.data.formats.numpy_files import npz_arrays
from fromnoise.data.shards.cache import ShardCache
from fromnoise.data.shards.index import ShardIndex, index_from_arrays
from fromnoise.data.shards.manifest import (
    INDEX_SUFFIX,
    LIST_NAME,
    Manifest,
    check_complete,
    parse_manifest,
)
from fromnoise.data.shards.object_folder import ObjectFolder, version_of
from fromnoise.data.shards.patterns import check_uncompressed, is_pattern
from fromnoise.data.shards.remote_tables import open_remote_tables
from fromnoise.data.shards.shard_source import open_shards
from fromnoise.data.shards.store import OpenFiles, Store, cached_index, scan
from fromnoise.data.source import Log, Splits
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import UnreadableFile, decoding, size_text

_GAP = 1 << 16  # bytes between two parts that are fetched anyway
_LARGEST = 16 << 20  # bytes of parts that are fetched as one
_PENDING = 256 << 20  # bytes of fetched parts that were not read yet
_AT_ONCE = 8  # shards that are fetched, or looked up, at once


def open_remote(url: str, log: Log) -> Splits:
    """Open shards in an object store.

    Args:
        url: of a folder with an index.json or with .tar or .parquet files, of one such file or of an index.json, or a
            pattern with braces; ``*`` where the store can list files.
        log: takes lines about the cache.

    Raises:
        UserError: there is no such file, the store cannot be reached, or a package for it is missing.
    """
    folder, _, last = url.rstrip("/").rpartition("/")
    if "::" in url:
        raise UserError(f"'{url}' is a chain of addresses: name one")
    check_uncompressed(last)
    single = last.endswith((".tar", ".parquet", LIST_NAME)) or is_pattern(last)
    if (
        not single
        and not url.startswith("hf://")
        and "." in last
        and last.rpartition(".")[2].isalnum()
        and last != url.split("://")[1].strip("/")
    ):
        raise UserError(
            f"'{url}' is the address of a file that is no .tar or .parquet shard: download it and name the file"
        )
    base = folder if single else url.rstrip("/")
    remote = ObjectFolder(base)
    if last.endswith(".parquet"):
        return open_remote_tables(remote, remote.matching(last), log)
    content = remote.fetch_small(LIST_NAME)
    manifest = None if content is None else parse_manifest(content, f"{base}/{LIST_NAME}")
    if manifest is not None:
        check_complete(manifest, base)
    listed = None if manifest is None else [shard.name for shard in manifest.shards]
    if single and last != LIST_NAME:
        names = remote.matching(last)
    else:
        names = listed if listed is not None else remote.matching("*.tar")
    tables = [] if names else remote.below(".parquet")
    if tables:
        return open_remote_tables(remote, tables, log)
    if not names:
        raise UserError(
            f"'{url}' holds no shards: name a folder with .tar or .parquet files, or one with an {LIST_NAME}"
        )
    store = RemoteStore(remote, names, manifest, log)
    return open_shards(store, url, log)


@final
class RemoteStore(Store):
    """Shards in an object store, kept in the cache or read in parts."""

    is_remote = True

    def __init__(self, remote: ObjectFolder, names: Sequence[str], manifest: Manifest | None, log: Log) -> None:
        """Look up the shards.

        Args:
            remote: their folder.
            names: of the shards.
            manifest: the list beside them.
            log: takes a line that says whether they are fetched whole.
        """
        self._remote, self.names, self.manifest, self._log = remote, tuple(names), manifest, log
        known = {s.name: s for s in manifest.shards} if manifest is not None else {}
        self._known = [known.get(name) for name in self.names]
        self._cache = ShardCache()
        self._lock = threading.Lock()
        self._open = OpenFiles(self._fetch)
        self._pending: dict[tuple[int, int], bytes] = {}
        self._pending_bytes = 0
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look-up") as pool:
            found = list(pool.map(self._look_up, self.names))
        self._sizes = [None if info is None else int(info.get("size") or 0) for info in found]
        self._versions = [self._version(k, info) for k, info in enumerate(found)]
        total = sum(size or 0 for size in self._sizes)
        self._whole = self._cache.room(total)
        mode = "fetched whole into the cache" if self._whole else "larger than the cache, so images are read one by one"
        log(f"'{remote.url}': {len(self.names)} shards of {size_text(total)}, {mode} (FROMNOISE_CACHE_GB)")

    def _look_up(self, name: str) -> dict[str, Any] | None:
        try:
            return self._remote.info(name)
        except FileNotFoundError:
            return None

    def _version(self, k: int, info: dict[str, Any] | None) -> str:
        """What changes when the shard does."""
        shard = self._known[k]
        version = shard.sha256 if shard is not None and shard.sha256 else ""
        version = version or version_of(info or {})
        return f"{self._remote.url}/{self.names[k]}\0{self._sizes[k]}\0{version}"

    def index(self, k: int) -> ShardIndex:
        """See ``Store``."""
        name, size, shard = self.names[k], self._sizes[k], self._known[k]
        address = f"{self._remote.url}/{name}"
        if size is None:
            raise UnreadableFile(address, "No such file or directory")
        if shard is not None and shard.size is not None and shard.size != size:
            raise UnreadableFile(address, f"it has {size:,} of {shard.size:,} bytes")

        def build() -> ShardIndex:
            found = self._packed_index(k, size)
            if found is not None:
                return found
            with self._fetch(k) as file:
                return scan(file, address, size)

        found = cached_index(self._versions[k], size, build, self._log)
        if shard is not None and shard.images is not None and shard.images != len(found):
            raise UnreadableFile(address, f"it holds {len(found):,} of {shard.images:,} images")
        return found

    def _packed_index(self, k: int, size: int) -> ShardIndex | None:
        """The index that was packed with the shard; None if there is none."""
        shard = self._known[k]
        content = self._remote.fetch_small(self.names[k] + INDEX_SUFFIX) if shard and shard.sha256 else None
        if content is None:
            return None
        address = f"{self._remote.url}/{self.names[k]}{INDEX_SUFFIX}"
        with decoding(address, "an index of a shard", "remove it"):
            return index_from_arrays(npz_arrays(address, io.BytesIO(content), len(content)), size)

    def _fetch(self, k: int) -> BinaryIO:
        """Open the shard in the cache."""
        shard, size = self._known[k], self._sizes[k] or 0
        sha256 = shard.sha256 if shard is not None else ""
        return self._cache.open(
            self._versions[k], size, lambda path: self._remote.copy(self.names[k], path, size, sha256)
        )

    def prefetch(self, parts: Sequence[tuple[int, int, int]]) -> None:
        """See ``Store``."""
        if self._whole:
            missing = sorted({k for k, _, _ in parts if not self._open.is_open(k)})
            if len(missing) > 1:
                with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
                    list(pool.map(self._open.fetch, missing))
            return
        groups = _merged([part for part in parts if part[2]])
        requests = [(self.names[k], start, end - start) for k, start, end, _ in groups]
        if not requests:
            return
        contents = self._remote.parts(requests)
        with self._lock:
            for (k, start, _, inside), content in zip(groups, contents, strict=True):
                for offset, size in inside:
                    if (k, offset) not in self._pending:
                        self._pending[k, offset] = content[offset - start : offset - start + size]
                        self._pending_bytes += size
            while self._pending_bytes > _PENDING:  # what was fetched first and never read
                self._pending_bytes -= len(self._pending.pop(next(iter(self._pending))))

    def read(self, k: int, offset: int, size: int) -> bytes:
        """See ``Store``."""
        name = f"{self._remote.url}/{self.names[k]}"
        if self._whole:
            return self._open.read(k, name, offset, size)
        if size == 0:
            return b""
        with self._lock:
            content = self._pending.pop((k, offset), None)
            self._pending_bytes -= len(content or b"")
        return content if content is not None else self._remote.parts([(self.names[k], offset, size)])[0]


def _merged(parts: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int, list[tuple[int, int]]]]:
    """Parts that lie close to each other, as one: shard, start, end, and the parts (offset, size) inside."""
    groups: list[tuple[int, int, int, list[tuple[int, int]]]] = []
    for k, offset, size in sorted(set(parts)):
        if groups:
            last, start, end, inside = groups[-1]
            if last == k and offset - end <= _GAP and max(end, offset + size) - start <= _LARGEST:
                inside.append((offset, size))
                groups[-1] = (k, start, max(end, offset + size), inside)
                continue
        groups.append((k, offset, offset + size, [(offset, size)]))
    return groups
