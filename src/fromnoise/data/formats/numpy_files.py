"""Arrays in .npy and .npz files."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO, BinaryIO, final

import numpy as np

from fromnoise.data.arrays import array_splits, channels_last
from fromnoise.data.format import Format
from fromnoise.data.source import SPLITS, Log, Splits
from fromnoise.registry import register
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import check_expansion, check_member, check_pixels, decoding, open_regular

_KNOWN_HEADERS = 1000  # of .npy files with one image each


@register("format", "npz")
@final
class NpzFile(Format):
    """Arrays in a .npz file.

    ``images`` (or the only array, or ``arr_0``) and optionally ``labels`` (or ``arr_1``); or by split, ``x_train`` and
    ``y_train`` or ``train_images`` and ``train_labels``.
    """

    suffixes = (".npz",)

    def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
        """See ``Format``; files with Python objects are refused."""
        path = root / names[0]
        return array_splits(*_images_and_labels(read_npz(path), path), path.name, log)


@register("format", "npy")
@final
class NpyFile(Format):
    """One array in a .npy file, which is read from the disk as it is needed."""

    suffixes = (".npy",)

    def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
        """See ``Format``; files with Python objects are refused."""
        path = root / names[0]
        return array_splits({"all": map_npy(path)}, {}, path.name, log)


def map_npy(path: Path) -> np.ndarray:
    """Map the array of a .npy file, to be read from the disk as it is needed; nothing is unpickled.

    Raises:
        UnreadableFile: it is damaged, or holds Python objects.
    """
    with decoding(path, ".npy"):
        with open_regular(path) as file:
            _check_header(file, os.fstat(file.fileno()).st_size)
        return np.load(path, mmap_mode="r", allow_pickle=False)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a .npz file, within the limits of unpacked bytes; nothing is unpickled.

    Raises:
        UnreadableFile: it is damaged, or unpacks to too much.
    """
    with decoding(path, ".npz"), open_regular(path) as raw:
        if raw.read(6) == b"\x93NUMPY":
            raise UserError(f"'{path}' is not a .npz file; name it .npy if it holds one array")
        return npz_arrays(path, raw, os.fstat(raw.fileno()).st_size)


def npz_arrays(path: str | Path, raw: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Read the arrays of an open .npz file, within the limits of unpacked bytes; nothing is unpickled.

    Args:
        path: of the file, for messages.
        raw: the file.
        size: its bytes.

    Raises:
        Exception: it is damaged, or unpacks to too much.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(raw) as archive:
        members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        check_expansion(path, size, sum(m.file_size for m in members))
        for member in members:
            check_member(member)
            with archive.open(member) as file:
                _check_header(file, member.file_size)
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


class NpyImages:
    """Reads images from the contents of .npy files, of which many have the same header."""

    def __init__(self) -> None:
        """No header is known."""
        self._shapes: dict[bytes, tuple[int, ...]] = {}

    def read(self, content: bytes) -> np.ndarray:
        """Read one image.

        Returns:
            uint8 (H, W) or (H, W, C); truth values become 0 and 255.

        Raises:
            ValueError: it is damaged, or no image of bytes.
        """
        start = 10 + int.from_bytes(content[8:10], "little")
        shape = self._shapes.get(content[:start])
        if shape is not None:
            return _last_channels(np.frombuffer(content, np.uint8, prod(shape), start).reshape(shape))
        _check_header(io.BytesIO(content), len(content))
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        if array.ndim not in (2, 3) or 0 in array.shape or array.dtype not in (np.uint8, np.bool_):
            raise ValueError(f"its array has shape {array.shape} and type {array.dtype}, not bytes of shape (H, W, C)")
        image = _last_channels(array)
        check_pixels(*image.shape[:2])
        if array.dtype == np.bool_:
            return image.astype(np.uint8) * 255
        if array.flags.c_contiguous and content[6:8] == b"\x01\0" and len(self._shapes) < _KNOWN_HEADERS:
            self._shapes[content[:start]] = array.shape
        return image


def _last_channels(array: np.ndarray) -> np.ndarray:
    """An image (H, W), (H, W, C) or (C, H, W) with the channels last."""
    return array.transpose(1, 2, 0) if array.ndim == 3 and not channels_last(array.shape) else array


def _check_header(file: BinaryIO | IO[bytes], size: int) -> None:
    """Check that the array which a .npy header declares has the size of the file, before memory is allocated.

    Raises:
        ValueError: it has not, or holds Python objects.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which can run code when they are read")
    if prod(shape) > size or prod(shape) * dtype.itemsize > size:
        raise ValueError("it is truncated, or its header declares another size")


def _images_and_labels(
    arrays: dict[str, np.ndarray], path: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Find images and labels by the names of the arrays; each by split, ``all`` if there are none."""
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for key, array in arrays.items():
        for alias, split in SPLITS.items():
            if key in (f"x_{alias}", f"{alias}_images"):
                images[split] = array
            elif key in (f"y_{alias}", f"{alias}_labels"):
                labels[split] = array
    if images:
        return images, labels
    others = [key for key in arrays if key != "labels"]
    key = next((k for k in ("images", "arr_0") if k in arrays), others[0] if len(others) == 1 else None)
    if key is None:
        raise UserError(f"'{path}' holds the arrays {', '.join(arrays) or '(none)'}; name the array of images 'images'")
    found = arrays.get("labels", arrays.get("arr_1") if key == "arr_0" else None)
    return {"all": arrays[key]}, {} if found is None else {"all": found}
