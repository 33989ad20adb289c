"""Parquet files in an object store or on the hub, by position: ``hf://datasets/owner/name``, ``s3://bucket/x.parquet``.

At the start the footers and the labels are read. The images of a row group are fetched together when one of them is
needed, several groups at once, and kept in the cache, from which the least recently used groups are removed.
"""

from __future__ import annotations

import contextlib
import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
from PIL import Image

from fromnoise.data.decoding import open_encoded
from fromnoise.data.shards.cache import ShardCache
from fromnoise.data.shards.object_folder import ObjectFolder
from fromnoise.data.shards.store import KEPT_OPEN, OpenFiles
from fromnoise.data.source import Log, Source, Splits, encode_labels, group_by_split
from fromnoise.data.tables import Columns, encoded_suffix, find_columns
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import UnreadableFile, check_expansion, first_line, size_text

_AT_ONCE = 8  # files that are looked up, or row groups that are fetched, at once
_ROWS = 64  # that are unpacked together
_WORD = 8  # bytes of an end in a file of the cache


@dataclass(frozen=True)
class TableFile:
    """A parquet file, as its footer describes it.

    Attributes:
        name: below the folder.
        version: changes when the file does.
        columns: those that are used.
        rows: of each row group.
        sizes: bytes of the images of each row group, packed and unpacked.
        labels: of all rows; None where they are unknown.
    """

    name: str
    version: str
    columns: Columns
    rows: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    labels: list[Any]


def open_remote_tables(remote: ObjectFolder, names: Sequence[str], log: Log) -> Splits:
    """Open parquet files of an object store as one data set.

    Args:
        remote: their folder.
        names: the files, relative to it.
        log: takes a line about the cache.

    Raises:
        UserError: a file is missing or damaged, no column can hold images, or the store cannot be reached.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look-up") as pool:
        files = dict(zip(names, pool.map(lambda name: _look_up(remote, name), names), strict=True))
    groups = RowGroups(remote, list(files.values()))
    total = sum(packed for file in files.values() for packed, _ in file.sizes)
    mode = "fetched by row group into the cache"
    if not groups.fit:
        most = max((rows for file in files.values() for rows in file.rows), default=0)
        mode += (
            f", which is smaller, so that up to {most:,} images may be fetched for one: pack the set into shards "
            "(fromnoise data pack), or raise FROMNOISE_CACHE_GB"
        )
    log(f"'{remote.url}': {len(files)} parquet files with {size_text(total)} of images, {mode}")
    by_split = {split: [files[name] for name in group] for split, group in group_by_split(names).items()}
    labels = {split: [label for file in group for label in file.labels] for split, group in by_split.items()}
    class_names, encoded = encode_labels(labels, next(iter(files.values())).columns.class_names)
    return {
        split: RemoteTables(groups, group, class_names, encoded[split]) for split, group in by_split.items() if group
    }


def _look_up(remote: ObjectFolder, name: str) -> TableFile:
    """Read the footer and the labels of a file."""
    import pyarrow.parquet as pq

    def request() -> TableFile:
        with remote.open(name) as raw, _as_parquet(f"{remote.url}/{name}"):
            file = pq.ParquetFile(raw, pre_buffer=True)
            columns = find_columns(file.schema_arrow, name)
            metadata = file.metadata
            groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
            sizes = [_sizes(group, columns.image) for group in groups]
            labels = [None] * metadata.num_rows
            if columns.label is not None:
                labels = file.read([columns.label]).column(columns.label).to_pylist()
        return TableFile(name, version, columns, tuple(g.num_rows for g in groups), tuple(sizes), labels)

    try:
        version = remote.version(name)
        return remote.attempt(request, name)
    except FileNotFoundError:
        raise UnreadableFile(f"{remote.url}/{name}", "No such file or directory") from None


@contextlib.contextmanager
def _as_parquet(address: str) -> Iterator[None]:
    """Turn what pyarrow raises of a damaged file into one line; errors of the store are passed on.

    Raises:
        UnreadableFile: the file is damaged.
    """
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        message = "'{path}' cannot be read as parquet ({reason}); restore it"
        raise UnreadableFile(address, first_line(error), message) from None


def _sizes(group: Any, column: str) -> tuple[int, int]:
    """Bytes of a column in a row group, packed and unpacked."""
    chunks = [group.column(k) for k in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == column]
    return sum(c.total_compressed_size for c in chunks), sum(c.total_uncompressed_size for c in chunks)


class RowGroups:
    """The images of all row groups, each a file in the cache: where each image ends (8 bytes), then the images.

    Attributes:
        fit: whether all of them fit in the cache.
    """

    def __init__(self, remote: ObjectFolder, files: Sequence[TableFile]) -> None:
        """Fetch nothing yet.

        Args:
            remote: the folder of the files.
            files: the files.
        """
        self._remote, self._cache = remote, ShardCache()
        self._places = [(file, group) for file in files for group in range(len(file.rows))]
        self._first = dict(
            zip((f.name for f in files), accumulate((len(f.rows) for f in files), initial=0), strict=False)
        )
        self.fit = self._cache.room(sum(unpacked for file in files for _, unpacked in file.sizes))
        self._open = OpenFiles(self._fetch, KEPT_OPEN if self.fit else 0)  # an open file keeps its room on the disk

    def number(self, file: TableFile, group: int) -> int:
        """The number of a row group among those of all files."""
        return self._first[file.name] + group

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Fetch row groups that are read next, together."""
        missing = [k for k in numbers if not self._open.is_open(k)]
        if len(missing) > 1:
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
                list(pool.map(self._open.fetch, missing))

    def content(self, number: int, row: int) -> bytes:
        """The encoded image in a row of a row group; empty if the row holds none."""
        start, end = self._span(number, row)
        return self._read(number, start, end - start)

    def size(self, number: int, row: int) -> int:
        """Bytes of the encoded image in a row."""
        start, end = self._span(number, row)
        return end - start

    def _span(self, number: int, row: int) -> tuple[int, int]:
        file, group = self._places[number]
        begin = _WORD * file.rows[group]
        words = np.frombuffer(self._read(number, _WORD * max(0, row - 1), _WORD * min(2, row + 1)), np.int64)
        return begin + (int(words[0]) if row else 0), begin + int(words[-1])

    def _read(self, number: int, offset: int, size: int) -> bytes:
        return self._open.read(number, f"{self._remote.url}/{self._places[number][0].name}", offset, size)

    def _fetch(self, number: int) -> BinaryIO:
        """Open the file of a row group in the cache."""
        file, group = self._places[number]
        identity = f"{self._remote.url}/{file.name}\0{file.version}\0{file.columns.image}\0{group}"
        size = file.sizes[group][1]
        return self._cache.open(identity, size, lambda path: self._write(file, group, path), exact=False)

    def _write(self, file: TableFile, group: int, path: Path) -> None:
        import pyarrow.parquet as pq

        address = f"{self._remote.url}/{file.name}"

        def request() -> list[bytes]:
            contents: list[bytes] = []
            unpacked = 0
            with self._remote.open(file.name) as raw, _as_parquet(address):
                table = pq.ParquetFile(raw, pre_buffer=True)
                for batch in table.iter_batches(_ROWS, [group], [file.columns.image]):
                    unpacked += batch.nbytes
                    check_expansion(address, file.sizes[group][0], unpacked)
                    contents += [_bytes_of(value) for value in batch.column(0).to_pylist()]
            return contents

        try:
            contents = self._remote.attempt(request, file.name)
        except FileNotFoundError:
            raise UnreadableFile(address, "it is gone") from None
        if len(contents) != file.rows[group]:
            raise UnreadableFile(address, f"a row group holds {len(contents):,} of {file.rows[group]:,} rows")
        ends = np.cumsum([len(content) for content in contents], dtype=np.int64)
        with open(path, "wb") as out:
            out.write(ends.tobytes())
            out.writelines(contents)


def _bytes_of(value: Any) -> bytes:
    """The encoded image of a cell; empty if it holds none, or only the path of a file that is elsewhere."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else b""


@final
class RemoteTables(Source):
    """Images in the rows of remote parquet files, by position."""

    def __init__(
        self,
        groups: RowGroups,
        files: Sequence[TableFile],
        class_names: tuple[str, ...] | None,
        labels: Sequence[int | None],
    ) -> None:
        """Use files, one after the other.

        Args:
            groups: of all files of the data set.
            files: of this split.
            class_names: names of the classes.
            labels: class of each row.
        """
        super().__init__(class_names)
        self._codes = np.fromiter((-1 if label is None else label for label in labels), np.int64, len(labels))
        self._groups, self._files = groups, files
        self._places = [(file, groups.number(file, k)) for file in files for k in range(len(file.rows))]
        self._ends = list(accumulate(rows for file in files for rows in file.rows))

    def __len__(self) -> int:
        """Number of rows."""
        return self._ends[-1] if self._ends else 0

    def label(self, i: int) -> int | None:
        """See ``Source``."""
        return None if self.class_names is None or self._codes[i] < 0 else int(self._codes[i])

    def label_codes(self) -> np.ndarray:
        """See ``Source``."""
        return self._codes if self.class_names is not None else np.full(len(self), -1, np.int64)

    def _locate(self, i: int) -> tuple[TableFile, int, int]:
        """The file, the number of the row group, and the row in it."""
        at = bisect_right(self._ends, i)
        return *self._places[at], i - (self._ends[at - 1] if at else 0)

    def prefetch(self, rows: Sequence[int]) -> None:
        """See ``Source``."""
        self._groups.prefetch(sorted({self._locate(i)[1] for i in rows}))

    def _content(self, i: int) -> bytes:
        """The encoded image.

        Raises:
            FileNotFoundError: the row holds none.
        """
        _, number, row = self._locate(i)
        content = self._groups.content(number, row)
        if not content:
            raise FileNotFoundError("the row holds no image")
        return content

    def read(self, i: int) -> Image.Image:
        """Open the encoded image; it is decoded when the pixels are used."""
        return open_encoded(io.BytesIO(self._content(i)))

    def encoded(self, i: int) -> tuple[str, bytes]:
        """See ``Source``."""
        content = self._content(i)
        return encoded_suffix(content), content

    def name(self, i: int) -> str:
        """File and number of the row in its row group."""
        file, number, row = self._locate(i)
        return f"row {row} of group {number - self._groups.number(file, 0)} of {file.name}"

    def file_size(self, i: int) -> int:
        """Bytes of the encoded image; its row group is fetched."""
        _, number, row = self._locate(i)
        return self._groups.size(number, row)

    def identity(self) -> Iterator[bytes]:
        """Names, versions and sizes of the files and their row groups, so that no image is fetched."""
        for file in self._files:
            yield f"{file.name}\0{file.version}\0{file.rows}\0{file.sizes}\n".encode(errors="surrogateescape")
