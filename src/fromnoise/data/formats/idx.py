"""IDX files, the format of MNIST (LeCun et al. 1998), plain or gzipped."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import final

import numpy as np

from fromnoise.data.arrays import array_splits
from fromnoise.data.format import Format
from fromnoise.data.source import SPLITS, Log, Splits
from fromnoise.registry import register
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import decoding, gunzip, read_bytes

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IMAGE_FILE = re.compile(r"(?P<split>[a-z0-9]*)-?images[-.]idx3", re.IGNORECASE)


@register("format", "idx")
@final
class IdxFile(Format):
    """IDX files of images, plain or gzipped, with the files of their labels beside them."""

    suffixes = (".idx", ".gz")
    description = "IDX files"
    several_files = True

    def matches(self, name: str) -> bool:
        """By the words in names such as ``train-images-idx3-ubyte``."""
        return "idx" in Path(name).name or "ubyte" in Path(name).name

    def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
        """See ``Format``."""
        by_split = {"all": names[0]} if len(names) == 1 else find_idx_images(names)
        if not by_split:
            raise UserError(
                f"'{root}' holds IDX files, but none named as in train-images-idx3-ubyte; rename the images"
            )
        return open_idx({split: root / name for split, name in by_split.items()}, log)


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file: 0, 0, dtype, rank, the sizes as 32-bit big-endian integers, the values.

    Raises:
        UserError: the file is damaged.
    """
    content = read_bytes(path)
    content = gunzip(path, content) if content[:2] == b"\x1f\x8b" else content
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise UserError(f"'{path}' is not an IDX file; its first bytes must be 0, 0, type, rank")
    rank, dtype = content[3], np.dtype(_DTYPES[content[2]])
    start = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:start]) if len(content) >= start else ()
    if len(shape) != rank or len(content) != start + prod(shape) * dtype.itemsize:
        raise UserError(f"'{path}' is truncated: its size differs from that in its header; download it again")
    with decoding(path, "IDX", "download it again"):
        array = np.frombuffer(content, dtype, offset=start) if len(content) > start else np.empty(0, dtype)
        return array.reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_labels_of(path: Path) -> np.ndarray | None:
    """Labels of an IDX file of images, from the file named with labels for images and idx1 for idx3."""
    name = re.sub("idx3", "idx1", re.sub("images", "labels", path.name))
    stem = name.removesuffix(".gz")
    for candidate in (path.with_name(name), path.with_name(stem), path.with_name(stem + ".gz")):
        if name != path.name and candidate.is_file():
            return read_idx(candidate)
    return None


def find_idx_images(names: Sequence[str]) -> dict[str, str]:
    """Find the IDX files of images among ``names``, by split, as in ``train-images-idx3-ubyte.gz``."""
    found: dict[str, str] = {}
    for name in names:
        match = _IMAGE_FILE.search(Path(name).name)
        if match:
            found.setdefault(SPLITS.get(match["split"].lower(), match["split"].lower() or "all"), name)
    return found


def open_idx(files: Mapping[str, Path], log: Log, class_names: tuple[str, ...] | None = None) -> Splits:
    """Open IDX files of images, with the labels beside them.

    Args:
        files: by split.
        log: as of ``ArraySource``.
        class_names: names of the classes; the numbers of the classes if omitted.

    Raises:
        UserError: a file is damaged.
    """
    images = {split: read_idx(path) for split, path in files.items()}
    labels = {split: _read_labels_of(path) for split, path in files.items()}
    first = next(iter(files.values()))
    title = first.parent.name if len(files) > 1 else first.name
    return array_splits(images, {s: a for s, a in labels.items() if a is not None}, title, log, class_names)
