"""The index of a folder with very many image files, so that a start neither lists them nor asks for their sizes.

It holds the name, size and time of change of every image, and the time of change of every folder, in a private folder
of the cache. A folder's time changes when a file is added, removed or renamed in it, so a start looks at the folders
alone; a file that was written again in place is found when it is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
from PIL import Image

from fromnoise.data.download import cache_folder
from fromnoise.data.format import image_format, image_suffixes
from fromnoise.data.formats.numpy_files import read_npz
from fromnoise.data.image_tree import find_splits
from fromnoise.data.label_table import TABLE_NAMES
from fromnoise.data.source import Log, Source, Splits, encode_labels
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import private_folder, write_atomic
from fromnoise.utils.reading import UnreadableFile, check_regular, decoding, limits, read_bytes

MANY_FILES = 100_000
"""Number of images from which on a folder is indexed."""
_VERSION = 1
_RECENT = 2.0  # seconds before the listing within which a change of a folder may have been missed
_AT_ONCE = 8  # threads that ask for sizes, of which most wait on a network file system
_BLOCK = 4096


@dataclass(frozen=True)
class FolderIndex:
    """Images of a folder, as arrays: 28 bytes an image beside its name.

    Attributes:
        names: paths below the root, ``/``-separated, sorted, one after the other in UTF-8, uint8 (B,).
        ends: where each path ends, int64 (N,).
        sizes: bytes of each file, int64 (N,).
        times: of the last change of each file, nanoseconds, int64 (N,).
        places: index of the folder of each file in ``folders``, int32 (N,).
        folders: all folders below the root, and the root itself, "".
        folder_times: of their last change, nanoseconds, int64 (F,).
    """

    names: np.ndarray
    ends: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    places: np.ndarray
    folders: tuple[str, ...]
    folder_times: np.ndarray

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.ends)

    def name(self, i: int) -> str:
        """Path of image ``i`` below the root."""
        start = int(self.ends[i - 1]) if i else 0
        return self.names[start : int(self.ends[i])].tobytes().decode("utf-8", "surrogateescape")

    def to_bytes(self) -> bytes:
        """The index as the content of an .npz file."""
        meta = {"version": _VERSION, "suffixes": image_suffixes(), "folders": self.folders}
        arrays = {key: getattr(self, key) for key in ("names", "ends", "sizes", "times", "places", "folder_times")}
        buffer = io.BytesIO()
        np.savez(buffer, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), **arrays)
        return buffer.getvalue()

    def changed(self, root: Path) -> str:
        """A folder that is not as it was; empty if all are."""
        for folder, then in zip(self.folders, self.folder_times.tolist(), strict=True):
            try:
                if os.stat(root / folder).st_mtime_ns != then:
                    return str(root / folder)
            except OSError:
                return str(root / folder)
        return ""


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> FolderIndex | None:
    """An index of the arrays of its file; None if it was made with other image formats.

    Raises:
        ValueError: the arrays are no index.
    """
    try:
        meta = json.loads(arrays["meta"].tobytes())
        version, suffixes, folders = meta["version"], list(meta["suffixes"]), tuple(map(str, meta["folders"]))
        keys = ("names", "ends", "sizes", "times", "places", "folder_times")
        names, ends, sizes, times, places, folder_times = (arrays[key] for key in keys)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it is no index of a folder ({type(error).__name__})") from None
    n = len(ends)
    kinds = ((ends, np.int64, n), (sizes, np.int64, n), (times, np.int64, n), (places, np.int32, n))
    kinds += ((folder_times, np.int64, len(folders)), (names, np.uint8, len(names)))
    right = version == _VERSION and n > 0 and all(a.dtype == kind and a.shape == (m,) for a, kind, m in kinds)
    right = right and int(ends[0]) >= 0 and bool((np.diff(ends) >= 0).all()) and int(ends[-1]) == len(names)
    right = right and 0 <= int(places.min()) <= int(places.max()) < len(folders)
    if not right:
        raise ValueError("it is no index of a folder")
    return (
        FolderIndex(names, ends, sizes, times, places, folders, folder_times) if suffixes == image_suffixes() else None
    )


def index_path(root: Path) -> Path:
    """Where the index of a folder is kept.

    Raises:
        OSError: the cache cannot be used.
    """
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:40]
    return private_folder(cache_folder() / "folder-index") / f"{name}.npz"


def open_indexed(root: Path, log: Log) -> Splits | None:
    """Open a folder by its index; None if it has none, or has changed since.

    Args:
        root: the folder.
        log: takes a line if the index is not used.
    """
    try:
        path = index_path(root)
    except OSError:
        return None
    if not path.exists():
        return None
    try:
        with decoding(path, "an index of a folder", "remove it"):
            index = _from_arrays(read_npz(path))
    except UnreadableFile as error:
        log(f"'{root}': its index is not used ({error.reason}), so the files are listed again")
        return None
    if index is None:
        return None
    changed = index.changed(root)
    if changed:
        log(f"'{root}': '{changed}' has changed since the folder was indexed, so the files are listed again")
        return None
    return _splits(root, index)


def index_folder(
    root: Path, images: Sequence[str], files: Sequence[str], folders: Mapping[str, int], began: float, log: Log
) -> Splits | None:
    """Index a folder and open it; None if it is small, has a label table, or images beside its split folders.

    Args:
        root: the folder.
        images: its image files, as ``list_files`` names them.
        files: all of its files.
        folders: its folders with their times of change in nanoseconds, as they were listed.
        began: seconds since the epoch at which the listing began.
        log: takes a line about the index.
    """
    if len(images) < MANY_FILES or any(name.rpartition("/")[2].lower() in TABLE_NAMES for name in files):
        return None
    log(f"'{root}': indexing {len(images):,} images, once")
    numbers = {folder: k for k, folder in enumerate(folders)}
    encoded = [os.fsencode(name) for name in images]
    ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    places = np.fromiter((numbers[name.rpartition("/")[0]] for name in images), np.int32, len(images))

    def look_at(first: int) -> np.ndarray:
        found = np.empty((2, len(images[first : first + _BLOCK])), np.int64)
        for i, name in enumerate(images[first : first + _BLOCK]):
            try:
                status = os.stat(root / name)
                found[:, i] = status.st_size, status.st_mtime_ns
            except OSError:  # a link to nothing: as an image, it cannot be read
                found[:, i] = -1
        return found

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="index") as pool:
        sizes, times = np.concatenate(list(pool.map(look_at, range(0, len(images), _BLOCK))), axis=1)
    names = np.frombuffer(b"".join(encoded), np.uint8)
    listed = tuple(folders)
    index = FolderIndex(names, ends, sizes, times, places, listed, np.array(list(folders.values()), np.int64))
    if max(folders.values()) < (began - _RECENT) * 1e9:  # otherwise a change of the folder may have been missed
        try:
            write_atomic(index_path(root), index.to_bytes())
        except (OSError, UserError) as error:
            log(f"the index of '{root}' is not kept: {error}")
    return _splits(root, index)


def _splits(root: Path, index: FolderIndex) -> Splits | None:
    """The splits and classes that the folders' names give, as ``arrange`` finds them for each file."""
    used = np.unique(index.places).tolist()
    examples = {f"{index.folders[k]}/x" if index.folders[k] else "x": k for k in used}
    outside: list[str] = []
    found = find_splits(list(examples), outside.append)
    if outside:
        return None
    labels = {split: [f.parts[0] if len(f.parts) > 1 else None for f in files] for split, files in found.items()}
    class_names, encoded = encode_labels(labels)
    splits: Splits = {}
    for split, files in found.items():
        codes = np.full(len(index.folders), -1, np.int64)
        member = np.zeros(len(index.folders), bool)
        for file, code in zip(files, encoded[split], strict=True):
            codes[examples[file.name]] = -1 if code is None else code
            member[examples[file.name]] = True
        rows = np.flatnonzero(member[index.places])
        splits[split] = IndexedFolder(root, index, rows, class_names, codes)
    return splits


@final
class IndexedFolder(Source):
    """Image files of a folder that has an index."""

    def __init__(
        self, root: Path, index: FolderIndex, rows: np.ndarray, class_names: tuple[str, ...] | None, codes: np.ndarray
    ) -> None:
        """Use some of the files.

        Args:
            root: the folder.
            index: of it.
            rows: which files, int64 (N,).
            class_names: names of the classes.
            codes: class of each folder, int64 (F,); -1 where there is none.
        """
        super().__init__(class_names)
        self._root, self._index, self._codes = root, index, codes
        self._rows = None if len(rows) == len(index) else rows
        self._length = len(rows)

    def __len__(self) -> int:
        """Number of files."""
        return self._length

    def _row(self, i: int) -> int:
        return i if self._rows is None else int(self._rows[i])

    def label(self, i: int) -> int | None:
        """See ``Source``."""
        code = int(self._codes[self._index.places[self._row(i)]])
        return None if self.class_names is None or code < 0 else code

    def label_codes(self) -> np.ndarray:
        """See ``Source``."""
        places = self._index.places if self._rows is None else self._index.places[self._rows]
        return self._codes[places] if self.class_names is not None else np.full(self._length, -1, np.int64)

    def name(self, i: int) -> str:
        """Path of the file below the root."""
        return self._index.name(self._row(i))

    def file_size(self, i: int) -> int:
        """Bytes of the file, by the index."""
        return int(self._index.sizes[self._row(i)])

    def identity(self) -> Iterator[bytes]:
        """See ``Source``: the same bytes, from the index."""
        for first in range(0, self._length, _BLOCK):
            rows = range(first, min(first + _BLOCK, self._length))
            lines = [f"{self.name(i)}\0{self.file_size(i)}\n" for i in rows]
            yield "".join(lines).encode(errors="surrogateescape")

    def _path(self, i: int) -> Path:
        """The file, as it was indexed.

        Raises:
            OSError: it is gone.
            UserError: it was written again.
        """
        row = self._row(i)
        path = self._root / self._index.name(row)
        status = os.stat(path)
        if (status.st_size, status.st_mtime_ns) != (self._index.sizes[row], self._index.times[row]):
            raise UserError(
                f"'{path}' has changed since the folder was indexed: remove {index_path(self._root)}, and run the same "
                "command again"
            )
        return path

    def read(self, i: int) -> Image.Image | np.ndarray:
        """Open the file; Pillow decodes it when the pixels are used."""
        path = self._path(i)
        check_regular(path, limits().image_bytes)
        found = image_format(path.name)
        if found is None:
            raise ValueError("its format is no longer registered")
        return found.read(path)

    def encoded(self, i: int) -> tuple[str, bytes]:
        """See ``Source``."""
        path = self._path(i)
        return PurePosixPath(path).suffix.lower(), read_bytes(path, limits().image_bytes)
