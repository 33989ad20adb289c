"""Pictures in files: a folder or a .zip, sub-folders being classes, or splits and then classes."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn, final

from PIL import Image

from fromnoise.data.sidecar import Sidecar, find
from fromnoise.data.source import SPLITS, Log, Parts, Source, encode
from fromnoise.utils.errors import UserError

IMAGES = {
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".bmp",
    ".dib",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
    ".avif",
    ".jp2",
}
IMAGES |= {".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".ico"}


@dataclass(frozen=True)
class _Entry:
    """A file of a set: its path as ``/``-separated name, and the part of it that says split and class."""

    name: str
    inner: tuple[str, ...]


class _Files(Source):
    """Picture files under one root."""

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: tuple[str, ...] | None,
        codes: Sequence[int | None],
        table: Sidecar | None = None,
    ) -> None:
        super().__init__(labels, codes)
        self._root = root
        self._names = list(names)
        self._table = table
        self.attributes = table.attributes if table is not None else ()

    def values(self, i: int) -> tuple[float, ...] | None:
        return None if self._table is None else self._table.find(self._table.values, self._names[i])

    def __len__(self) -> int:
        return len(self._names)

    def name(self, i: int) -> str:
        return self._names[i]

    @abstractmethod
    def read(self, i: int) -> Image.Image: ...


@final
class Folder(_Files):
    """Picture files in a folder."""

    def read(self, i: int) -> Image.Image:
        """The opened file, decoded when it is used."""
        return Image.open(self._root / self._names[i])

    def size(self, i: int) -> int:
        """Bytes of the file."""
        return (self._root / self._names[i]).stat().st_size


@final
class Zip(_Files):
    """Picture files in a .zip."""

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: tuple[str, ...] | None,
        codes: Sequence[int | None],
        table: Sidecar | None = None,
    ) -> None:
        """Open the archive and keep it open."""
        super().__init__(root, names, labels, codes, table)
        self._archive = zipfile.ZipFile(root)
        self._lock = threading.Lock()

    def read(self, i: int) -> Image.Image:
        """The opened file, decoded when it is used."""
        with self._lock:
            content = self._archive.read(self._names[i])
        return Image.open(io.BytesIO(content))

    def size(self, i: int) -> int:
        """Bytes of the file."""
        return self._archive.getinfo(self._names[i]).file_size


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def walk(root: Path) -> list[str]:
    """The files under a folder, ``/``-separated and sorted; links are followed, hidden files left out.

    Raises:
        OSError: a folder cannot be listed.
    """

    def give_up(error: OSError) -> NoReturn:
        raise error

    found, seen = [], set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=give_up):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [f for f in folders if not _hidden(f)]
        inner = Path(folder).relative_to(root)
        found += [(inner / f).as_posix() for f in files if not _hidden(f)]
    return sorted(found)


def what(names: Sequence[str]) -> str:
    """The kinds of files among ``names`` in words, the most frequent first."""
    kinds = Counter(PurePosixPath(name).suffix.lower() for name in names)
    told = [f"{n} {kind or 'without ending'}" for kind, n in kinds.most_common(3)]
    return ", ".join(told) + (" and others" if len(kinds) > 3 else "")


def is_image(name: str) -> bool:
    """Whether the ending is that of a picture."""
    return PurePosixPath(name).suffix.lower() in IMAGES


def _arrange(names: Sequence[str], log: Log) -> dict[str, list[_Entry]]:
    """Find splits and classes in the names of the folders.

    Folders that all files share say nothing (an archive often has one around all), unless named as a split.
    """
    entries = [_Entry(name, PurePosixPath(name).parts) for name in names]
    while all(len(e.inner) > 1 for e in entries) and len({e.inner[0] for e in entries}) == 1:
        if entries[0].inner[0].lower() in SPLITS:
            break
        entries = [_Entry(e.name, e.inner[1:]) for e in entries]
    tops = {e.inner[0].lower() for e in entries if len(e.inner) > 1}
    if not tops or not tops <= SPLITS.keys():
        return {"all": entries}
    stray = [e.name for e in entries if len(e.inner) == 1]
    if stray:
        log(f"left out {len(stray)} images beside the split folders ({stray[0]} ...)")
    parts: dict[str, list[_Entry]] = {}
    for e in entries:
        if len(e.inner) > 1:
            parts.setdefault(SPLITS[e.inner[0].lower()], []).append(_Entry(e.name, e.inner[1:]))
    return parts


def _open(root: Path, kind: type[Folder] | type[Zip], names: Sequence[str], log: Log, table: Sidecar | None) -> Parts:
    arranged = _arrange(names, log)
    told = {s: [e.inner[0] if len(e.inner) > 1 else None for e in part] for s, part in arranged.items()}
    if table is not None and table.labels:
        log(f"labels are those of {table.name}")
        told = {s: [table.find(table.labels, e.name) for e in part] for s, part in arranged.items()}
        if len({type(v) for part in told.values() for v in part} - {type(None)}) > 1:  # 3 and "cat" have no order
            told = {s: [None if v is None else str(v) for v in part] for s, part in told.items()}
    labels, codes = encode(told)
    return {s: kind(root, [e.name for e in part], labels, codes[s], table) for s, part in arranged.items()}


def open_folder(root: Path, names: Sequence[str], log: Log, files: Sequence[str] = ()) -> Parts:
    """The pictures in a folder.

    Args:
        root: the folder.
        names: its picture files, as ``walk`` names them.
        log: takes a line if something is left out.
        files: all its files, among which a table of labels may be.

    Raises:
        UserError: that table cannot be understood.
    """
    return _open(root, Folder, names, log, find(files, lambda f: (root / f).read_bytes()))


def open_zip(path: Path, log: Log) -> Parts:
    """The pictures in a .zip.

    Args:
        path: the archive.
        log: takes a line if something is left out.

    Raises:
        UserError: it is no archive or holds no pictures.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = sorted(f for f in archive.namelist() if not f.endswith("/") and not any(map(_hidden, f.split("/"))))
            table = find(files, archive.read)
    except zipfile.BadZipFile as error:
        raise UserError(f"'{path}' is not a whole .zip file ({error}); fetch or pack it again") from None
    names = [f for f in files if is_image(f)]
    if not names:
        raise UserError(f"'{path}' holds no images" + (f" (found {what(files)})" if files else ": it is empty"))
    return _open(path, Zip, names, log, table)
