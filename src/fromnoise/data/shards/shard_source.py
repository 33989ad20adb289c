"""Shards as sources of images."""

from __future__ import annotations

import bisect
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from fromnoise.data.format import ImageFormat, image_format
from fromnoise.data.formats.numpy_files import NpyImages
from fromnoise.data.image_tree import arrange
from fromnoise.data.label_table import LabelTable, find_label_table
from fromnoise.data.shards.index import ShardIndex, merge_labels
from fromnoise.data.shards.manifest import problem_list
from fromnoise.data.shards.store import Store
from fromnoise.data.source import Log, Source, Splits, encode_labels, group_by_split
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import UnreadableFile, check_size, limits


@final
class ShardSource(Source):
    """Images in shards, by position."""

    def __init__(
        self,
        store: Store,
        indices: dict[int, ShardIndex],
        class_names: tuple[str, ...] | None,
        codes: np.ndarray | None = None,
        chosen: np.ndarray | None = None,
        table: LabelTable | None = None,
    ) -> None:
        """Use shards, one after the other.

        Args:
            store: of the shards.
            indices: by the number of the shard in the store.
            class_names: names of the classes.
            codes: class of each image, int64 (N,); -1 where it is unknown.
            chosen: which images to use, and in which order; all if omitted.
            table: from which the attributes are taken, instead of the shards themselves.
        """
        super().__init__(class_names)
        self._store, self._indices, self._table = store, indices, table
        self._numbers = list(indices)
        self._ends = list(accumulate(len(index) for index in indices.values()))
        self._chosen, self._length = chosen, self._ends[-1] if chosen is None else len(chosen)
        self._codes = np.full(self._length, -1) if codes is None else codes
        names = {index.attribute_names for index in indices.values() if len(index)}
        self.attribute_names = next(iter(names)) if len(names) == 1 else ()
        if table is not None:
            self.attribute_names = table.attribute_names
        self._formats: dict[str, ImageFormat | None] = {}
        self._npy, self._largest = NpyImages(), limits().image_bytes

    def __len__(self) -> int:
        """Number of images."""
        return self._length

    def label(self, i: int) -> int | None:
        """See ``Source``."""
        return None if self.class_names is None or self._codes[i] < 0 else int(self._codes[i])

    def label_codes(self) -> np.ndarray:
        """See ``Source``."""
        return self._codes.astype(np.int64)

    def attribute_values(self, i: int) -> tuple[float, ...] | None:
        """See ``Source``."""
        if self._table is not None:
            return self._table.attribute_values(self._member(i))
        shard, row = self._locate(i)
        values = self._indices[shard].attributes
        return None if values is None or np.isnan(values[row]).any() else tuple(values[row].tolist())

    def _locate(self, i: int) -> tuple[int, int]:
        """Number of the shard, and of the image in it."""
        place = i if self._chosen is None else int(self._chosen[i])
        at = bisect.bisect_right(self._ends, place)
        return self._numbers[at], place - (self._ends[at - 1] if at else 0)

    def _member(self, i: int) -> str:
        shard, row = self._locate(i)
        return self._indices[shard].name(row)

    def _part(self, i: int) -> tuple[int, int, int]:
        shard, row = self._locate(i)
        index = self._indices[shard]
        return shard, int(index.offsets[row]), int(index.sizes[row])

    def prefetch(self, rows: Sequence[int]) -> None:
        """See ``Source``."""
        if self._store.is_remote:
            self._store.prefetch([part for part in map(self._part, rows) if part[2] <= self._largest])

    def encoded(self, i: int) -> tuple[str, bytes]:
        """See ``Source``."""
        shard, offset, size = self._part(i)
        name = self._member(i)
        check_size(name, size, self._largest)
        return "." + name.rpartition(".")[2].lower(), self._store.read(shard, offset, size)

    def read(self, i: int) -> Image.Image | np.ndarray:
        """Read the file; Pillow decodes it when the pixels are used."""
        suffix, content = self.encoded(i)
        if suffix == ".npy":
            return self._npy.read(content)
        if suffix not in self._formats:
            self._formats[suffix] = image_format(f"x{suffix}")
        found = self._formats[suffix]
        if found is None:
            raise ValueError("its format is no longer registered")
        return found.read(io.BytesIO(content))

    def name(self, i: int) -> str:
        """Shard and path in it."""
        return f"{self._store.names[self._locate(i)[0]]}/{self._member(i)}"

    def file_size(self, i: int) -> int:
        """Bytes of the file in the shard."""
        return self._part(i)[2]

    def identity(self) -> Iterator[bytes]:
        """Names and sizes of the files, as arrays."""
        yield b"" if self._chosen is None else self._chosen.tobytes()
        for k, index in self._indices.items():
            yield self._store.names[k].encode("utf-8", "surrogateescape")
            yield index.name_bytes
            yield index.sizes.tobytes()


def open_shards(store: Store, title: str, log: Log) -> Splits:
    """Open shards as a data set.

    Classes and attributes are those of the samples (.cls, .json). If no sample has any and no list of shards names
    classes, they are taken from a label table in a shard or from the folders' names, as for a .zip archive.

    Args:
        store: of the shards.
        title: the data set in messages.
        log: takes lines about members that are left out.

    Returns:
        Splits by the list of shards, otherwise by words in the shards' names; shards that are missing or damaged are
        named in ``Source.damaged``.

    Raises:
        UserError: no shard can be read, or they hold no images.
    """
    indices: dict[int, ShardIndex] = {}
    damaged: list[str] = []
    for k in range(len(store.names)):
        try:
            indices[k] = store.index(k)
        except UnreadableFile as error:
            damaged.append(f"{store.names[k]} ({error.reason})")
    _log_skipped(store, indices, log)
    if not indices:
        raise UserError(f"no shard of '{title}' can be read: {problem_list(damaged)}")
    if not any(map(len, indices.values())):
        raise UserError(f"'{title}' holds no images: pack files such as 000.png, with labels in 000.cls")
    groups = _groups(store)
    class_names = store.manifest.class_names if store.manifest is not None else None
    labelled = any(index.labels or index.attribute_names for index in indices.values())
    if labelled or class_names is not None:
        splits = _labelled_splits(store, indices, groups, class_names)
    else:
        splits = _arranged_splits(store, indices, groups, title, log)
    for source in splits.values():
        source.damaged = tuple(damaged)
    return splits


def _groups(store: Store) -> dict[str, list[int]]:
    """Numbers of the shards by split."""
    known = {s.name: s.split for s in store.manifest.shards} if store.manifest is not None else {}
    if known and all(known.get(name) for name in store.names):
        groups: dict[str, list[int]] = defaultdict(list)
        for k, name in enumerate(store.names):
            groups[known[name]].append(k)
        return dict(groups)
    numbers = {name: k for k, name in enumerate(store.names)}
    return {split: [numbers[name] for name in names] for split, names in group_by_split(store.names).items()}


def _labelled_splits(
    store: Store, indices: dict[int, ShardIndex], groups: dict[str, list[int]], class_names: tuple[str, ...] | None
) -> Splits:
    """Splits with the labels of the samples."""
    values = merge_labels(list(indices.values()))
    names, encoded = encode_labels({"all": values}, class_names)
    index_of = {value: -1 if code is None else code for value, code in zip(values, encoded["all"], strict=True)}
    splits: Splits = {}
    for split, numbers in groups.items():
        chosen = {k: indices[k] for k in numbers if k in indices}
        codes = [np.array([*(index_of[v] for v in index.labels), -1])[index.codes] for index in chosen.values()]
        if chosen:
            splits[split] = ShardSource(store, chosen, names, np.concatenate(codes))
    return splits


def _arranged_splits(
    store: Store, indices: dict[int, ShardIndex], groups: dict[str, list[int]], title: str, log: Log
) -> Splits:
    """Splits with classes from a label table or from folders, as for a .zip archive."""
    numbers = [k for group in groups.values() for k in group if k in indices]
    chosen = {k: indices[k] for k in numbers}
    prefix = {k: "" if split == "all" else f"{split}/" for split, group in groups.items() for k in group}
    positions: dict[str, list[int]] = defaultdict(list)
    names: list[str] = []
    for k, index in chosen.items():
        for i in range(len(index)):
            name = prefix[k] + index.name(i)
            positions[name].append(len(names))
            names.append(name)
    tables = {prefix[k] + t.name: (k, t) for k, index in chosen.items() for t in index.tables}

    def read_table(name: str) -> bytes:
        k, member = tables[name]
        check_size(name, member.size, limits().text_bytes)
        return store.read(k, member.offset, member.size)

    used: dict[str, int] = defaultdict(int)

    def make(
        root: Path,
        names: Sequence[str],
        class_names: tuple[str, ...] | None,
        labels: Sequence[int | None],
        table: LabelTable | None = None,
    ) -> ShardSource:
        rows = np.empty(len(names), dtype=np.int64)
        for i, name in enumerate(names):
            rows[i] = positions[name][used[name]]
            used[name] += 1
        codes = np.array([-1 if label is None else label for label in labels], dtype=np.int64)
        return ShardSource(store, chosen, class_names, codes, rows, table)

    table = find_label_table(Path(title), list(tables), read_table)
    found: Any = arrange(Path(title), make, names, log, table)
    return found


def _log_skipped(store: Store, indices: dict[int, ShardIndex], log: Log) -> None:
    count = sum(index.skipped_count for index in indices.values())
    if count:
        names = [f"{store.names[k]}/{name}" for k, index in indices.items() for name in index.skipped][:10]
        more = f" and {count - len(names)} more" if count > len(names) else ""
        log(f"left out {count} members of the shards: {', '.join(names)}{more}")
