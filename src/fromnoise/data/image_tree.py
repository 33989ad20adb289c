"""Image files below a root: sub-folders are classes, or splits and then classes."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn, TypeVar, final

import numpy as np
from PIL import Image

from fromnoise.data.format import ImageFormat, image_format
from fromnoise.data.label_table import LabelTable, find_label_table
from fromnoise.data.source import SPLITS, Log, Source, Splits, encode_labels
from fromnoise.utils.reading import check_regular, limits, read_bytes


class ImageFiles(Source):
    """Image files below one root."""

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        class_names: tuple[str, ...] | None,
        labels: Sequence[int | None],
        table: LabelTable | None = None,
    ) -> None:
        """Store the names of the files.

        Args:
            root: folder or archive.
            names: the files, ``/``-separated.
            class_names: names of the classes.
            labels: class of each file.
            table: from which the attributes are taken.
        """
        super().__init__(class_names, labels)
        self._root = root
        self._names = list(names)
        self._table = table
        self.attribute_names = table.attribute_names if table is not None else ()

    def attribute_values(self, i: int) -> tuple[float, ...] | None:
        """From the label table."""
        return None if self._table is None else self._table.attribute_values(self._names[i])

    def __len__(self) -> int:
        """Number of files."""
        return len(self._names)

    def name(self, i: int) -> str:
        """Path of the file below the root."""
        return self._names[i]

    def _format(self, i: int) -> ImageFormat:
        found = image_format(self._names[i])
        if found is None:
            raise ValueError("its format is no longer registered")
        return found

    @abstractmethod
    def read(self, i: int) -> Image.Image | np.ndarray:
        """See ``Source``."""


@final
class FolderSource(ImageFiles):
    """Image files in a folder."""

    def read(self, i: int) -> Image.Image | np.ndarray:
        """Open the file; Pillow decodes it when the pixels are used."""
        path = self._root / self._names[i]
        check_regular(path, limits().image_bytes)
        return self._format(i).read(path)

    def encoded(self, i: int) -> tuple[str, bytes]:
        """See ``Source``."""
        path = self._root / self._names[i]
        return path.suffix.lower(), read_bytes(path, limits().image_bytes)

    def file_size(self, i: int) -> int:
        """Bytes of the file."""
        return (self._root / self._names[i]).stat().st_size


def open_folder(root: Path, names: Sequence[str], log: Log, files: Sequence[str] = ()) -> Splits:
    """Open the image files of a folder.

    Args:
        root: the folder.
        names: its image files, as ``list_files`` names them.
        log: takes a line if files are left out.
        files: all of its files, among which a label table may be.

    Raises:
        UserError: the label table cannot be parsed.
    """
    return arrange(
        root,
        FolderSource,
        names,
        log,
        find_label_table(root, files, lambda f: read_bytes(root / f, limits().text_bytes)),
    )


T = TypeVar("T", bound=Source)


def arrange(root: Path, make: Callable[..., T], names: Sequence[str], log: Log, table: LabelTable | None) -> Splits:
    """Make the splits of image files, with classes from the label table or from the folders' names.

    Args:
        root: folder or archive.
        make: a subclass of ``ImageFiles``, or a function that takes the same arguments.
        names: the image files.
        log: takes a line if files are left out, or if a label table is used.
        table: the label table.
    """
    splits = find_splits(names, log)
    labels: dict[str, list[int | str | None]] = {
        split: [f.parts[0] if len(f.parts) > 1 else None for f in files] for split, files in splits.items()
    }
    if table is not None and table.labels:
        log(f"labels are taken from {table.name}")
        labels = {split: [table.label(f.name) for f in files] for split, files in splits.items()}
    class_names, encoded = encode_labels(labels)
    return {s: make(root, [f.name for f in files], class_names, encoded[s], table) for s, files in splits.items()}


@dataclass(frozen=True)
class _File:
    """An image file.

    Attributes:
        name: path below the root, ``/``-separated.
        parts: the end of the path that can hold a split and a class.
    """

    name: str
    parts: tuple[str, ...]


def find_splits(names: Sequence[str], log: Log) -> dict[str, list[_File]]:
    """Group files by split.

    Folders that contain all files are ignored (archives often have one), unless they are named as a split.
    """
    files = [_File(name, PurePosixPath(name).parts) for name in names]
    while all(len(f.parts) > 1 for f in files) and len({f.parts[0] for f in files}) == 1:
        if files[0].parts[0].lower() in SPLITS:
            break
        files = [_File(f.name, f.parts[1:]) for f in files]
    folders = {f.parts[0].lower() for f in files if len(f.parts) > 1}
    if not folders or not folders <= SPLITS.keys():
        return {"all": files}
    outside = [f.name for f in files if len(f.parts) == 1]
    if outside:
        log(f"left out {len(outside)} images beside the split folders ({outside[0]} ...)")
    splits: dict[str, list[_File]] = {}
    for f in files:
        if len(f.parts) > 1:
            splits.setdefault(SPLITS[f.parts[0].lower()], []).append(_File(f.name, f.parts[1:]))
    return splits


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden or metadata of macOS."""
    return name.startswith(".") or name == "__MACOSX"


def list_files(root: Path) -> list[str]:
    """List the files below a folder, ``/``-separated and sorted; links are followed, hidden files left out.

    Raises:
        OSError: a folder cannot be listed.
    """
    return walk(root)[0]


def walk(root: Path) -> tuple[list[str], dict[str, int]]:
    """List the files below a folder as ``list_files``, and its folders with their times of change in nanoseconds.

    Raises:
        OSError: a folder cannot be listed.
    """

    def fail(error: OSError) -> NoReturn:
        raise error

    found, visited, times = [], set(), {}
    for folder, folders, files in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [f for f in folders if not is_hidden(f)]
        below = Path(folder).relative_to(root).as_posix()
        times["" if below == "." else below] = os.stat(folder).st_mtime_ns
        found += [f if below == "." else f"{below}/{f}" for f in files if not is_hidden(f)]
    return sorted(found), times


def count_suffixes(names: Sequence[str]) -> str:
    """Describe files by their suffixes, the most frequent first: ``12 .txt, 3 .csv``."""
    counts = Counter(PurePosixPath(name).suffix.lower() for name in names)
    shown = [f"{n} {suffix or 'without suffix'}" for suffix, n in counts.most_common(3)]
    return ", ".join(shown) + (" and others" if len(counts) > 3 else "")
