"""Image files in a .zip archive."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
from PIL import Image

from fromnoise.data.format import Format, image_files
from fromnoise.data.image_tree import ImageFiles, arrange, count_suffixes, is_hidden
from fromnoise.data.label_table import LabelTable, find_label_table
from fromnoise.data.source import Log, Splits
from fromnoise.registry import register
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import check_expansion, check_member, check_size, decoding, limits, open_regular


@final
class ZipSource(ImageFiles):
    """Image files in a .zip archive."""

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        class_names: tuple[str, ...] | None,
        labels: Sequence[int | None],
        table: LabelTable | None = None,
    ) -> None:
        """Open the archive; it stays open."""
        super().__init__(root, names, class_names, labels, table)
        self._archive = zipfile.ZipFile(open_regular(root))
        self._lock = threading.Lock()

    def read(self, i: int) -> Image.Image | np.ndarray:
        """Unpack the file; Pillow decodes it when the pixels are used."""
        return self._format(i).read(io.BytesIO(self.encoded(i)[1]))

    def encoded(self, i: int) -> tuple[str, bytes]:
        """See ``Source``."""
        with self._lock:
            content = _read_member(self._archive, self._names[i], limits().image_bytes)
        return PurePosixPath(self._names[i]).suffix.lower(), content

    def file_size(self, i: int) -> int:
        """Bytes of the unpacked file."""
        return self._archive.getinfo(self._names[i]).file_size


def _read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Unpack a member of an archive.

    Raises:
        UnreadableFile: it is larger than the limit, or than an image can be.
        Exception: it is damaged, or packed by an unusual method.
    """
    member = archive.getinfo(name)
    check_member(member)
    check_size(name, member.file_size, limit)
    check_expansion(name, member.compress_size, member.file_size)
    return archive.read(member)  # Python stops at the declared size


def open_zip(path: Path, log: Log) -> Splits:
    """Open the image files of a .zip archive.

    Args:
        path: the archive.
        log: takes a line if files are left out.

    Raises:
        UserError: it is not an archive or holds no images.
    """
    with decoding(path, "a .zip file", "download or pack it again"), open_regular(path) as raw:
        with zipfile.ZipFile(raw) as archive:
            files = [f for f in archive.namelist() if not f.endswith("/") and not any(map(is_hidden, f.split("/")))]
            files.sort()
            table = find_label_table(path, files, lambda name: _read_member(archive, name, limits().text_bytes))
    names = image_files(files)
    if not names:
        found = f" (found {count_suffixes(files)})" if files else ": it is empty"
        raise UserError(f"'{path}' holds no images{found}; pack image files into it")
    return arrange(path, ZipSource, names, log, table)


@register("format", "zip")
@final
class ZipArchive(Format):
    """Image files in a .zip archive: sub-folders are classes, or splits and then classes."""

    suffixes = (".zip",)

    def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
        """See ``Format``."""
        return open_zip(root / names[0], log)
