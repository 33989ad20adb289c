"""Pictures in arrays: .npz, .npy, IDX (the format of MNIST) and scikit-learn's digits."""

from __future__ import annotations

import gzip
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np

from fromnoise.data.decoding import scale_of, to_bytes
from fromnoise.data.source import SPLITS, Log, Parts, Source, encode
from fromnoise.utils.errors import UserError

_CHUNK = 1 << 24  # numbers looked at together
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_NAME = re.compile(r"(?P<split>[a-z0-9]*)-?images[-.]idx3", re.IGNORECASE)


@final
class Array(Source):
    """Pictures in one array."""

    def __init__(
        self,
        array: np.ndarray,
        title: str,
        log: Log,
        labels: tuple[str, ...] | None = None,
        codes: Sequence[int | None] | None = None,
    ) -> None:
        """Find out how the array is meant.

        Args:
            array: (N, H, W), (N, C, H, W) or (N, H, W, C); uint8, or numbers whose range says what they mean.
            title: what to call it in messages.
            log: takes a line that says how the array was read, where that is a choice.
            labels: names of the classes.
            codes: class of each picture.

        Raises:
            UserError: wrong rank, an unusual range, numbers that are not finite, or too many or few labels.
        """
        super().__init__(labels, codes)
        if array.ndim not in (3, 4) or array.dtype.kind not in "buif" or 0 in array.shape[1:]:
            raise UserError(
                f"{title} has shape {array.shape} and type {array.dtype}; "
                "images are numbers of shape (N, H, W), (N, C, H, W) or (N, H, W, C)"
            )
        if codes is not None and len(codes) != len(array):
            raise UserError(f"{title} has {len(array)} images but {len(codes)} labels")
        if array.ndim == 4 and not _channels_last(array.shape):
            array = array.transpose(0, 2, 3, 1)
        self._array, self._title = array, title
        self._scale: tuple[float, float] | None = None
        if array.dtype != np.uint8 and len(array):
            a, b, words = self._range()
            self._scale = a, b
            log(f"{title}: {array.dtype} numbers taken as {words}")

    def _range(self) -> tuple[float, float, str]:
        rows = max(1, _CHUNK // max(1, self._array[0].size))
        lows, highs = [], []
        for start in range(0, len(self._array), rows):
            part = self._array[start : start + rows]
            lows.append(float(part.min()))
            highs.append(float(part.max()))
        low, high = float(np.min(lows)), float(np.max(highs))
        if not np.isfinite([low, high]).all():
            raise UserError(f"{self._title} holds numbers that are not finite; replace them")
        scale = scale_of(self._array.dtype.kind, low, high)
        if scale is None:
            raise UserError(f"{self._title} spans {low:.4g} to {high:.4g}; scale it to [0, 1], [-1, 1] or 0..255")
        return scale

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._array)

    def read(self, i: int) -> np.ndarray:
        """uint8 (H, W) or (H, W, C), brought to bytes."""
        picture = self._array[i]
        return np.asarray(picture) if self._scale is None else to_bytes(picture, *self._scale)

    def name(self, i: int) -> str:
        """Its number in the array."""
        return f"image {i} of {self._title}"

    def size(self, i: int) -> int:
        """Bytes in the array."""
        return self._array[i].nbytes


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Whether (N, H, W, C) is likelier than (N, C, H, W): by the usual channels, else by the smaller axis."""
    first, last = shape[1], shape[3]
    usual = {1, 3, 4}
    return last in usual if (first in usual) != (last in usual) else last < first


def _listed(labels: np.ndarray, title: str) -> list[int | str | None]:
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or flat.dtype.kind not in "uiUSb":
        raise UserError(
            f"the labels of {title} have shape {labels.shape} and type {labels.dtype}; "
            "give one whole number or word an image"
        )
    return [str(v, "utf-8") if isinstance(v, bytes) else v for v in flat.tolist()]


def _parts(
    images: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    title: str,
    log: Log,
    known: tuple[str, ...] | None = None,
) -> Parts:
    """The splits of one set; ``known`` names the classes if the labels are their numbers."""
    listed = {s: _listed(a, title) for s, a in labels.items()}
    names, codes = encode(listed, known)
    return {
        s: Array(a, title if s == "all" else f"{title} ({s})", log, names if s in codes else None, codes.get(s))
        for s, a in images.items()
    }


def open_npy(path: Path, log: Log) -> Parts:
    """One array in a .npy file, read from the disk as it is needed.

    Raises:
        UserError: the file is broken or holds Python objects.
    """
    try:
        return _parts({"all": np.load(path, mmap_mode="r", allow_pickle=False)}, {}, path.name, log)
    except (ValueError, EOFError) as error:
        raise UserError(f"'{path}' cannot be read as .npy ({_first_line(error)})") from None


def open_npz(path: Path, log: Log) -> Parts:
    """Arrays in a .npz file.

    ``images`` (or the only array, or ``arr_0``) and, if there, ``labels`` (or ``arr_1``); or by split,
    ``x_train`` and ``y_train`` or ``train_images`` and ``train_labels``.

    Raises:
        UserError: the file is broken, holds Python objects, or does not say which array holds the images.
    """
    try:
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise UserError(f"'{path}' is not a .npz file; name it .npy if it holds one array")
            arrays = {key: file[key] for key in file.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"'{path}' cannot be read as .npz ({_first_line(error)})") from None
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for key, array in arrays.items():
        for split, name in SPLITS.items():
            if key in (f"x_{split}", f"{split}_images"):
                images[name] = array
            elif key in (f"y_{split}", f"{split}_labels"):
                labels[name] = array
    if not images:
        others = [key for key in arrays if key != "labels"]
        key = next((k for k in ("images", "arr_0") if k in arrays), others[0] if len(others) == 1 else None)
        if key is None:
            raise UserError(
                f"'{path}' holds the arrays {', '.join(arrays) or '(none)'}; name the one with the images 'images'"
            )
        images = {"all": arrays[key]}
        tags = arrays.get("labels", arrays.get("arr_1") if key == "arr_0" else None)
        labels = {} if tags is None else {"all": tags}
    return _parts(images, labels, path.name, log)


def read_idx(path: Path) -> np.ndarray:
    """An IDX file, plain or gzipped: 0, 0, dtype, rank, the sizes as 32-bit big-endian words, the numbers.

    Raises:
        UserError: the file is broken.
    """
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error):
        raise UserError(f"'{path}' is not a whole gzip file; fetch it again") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES:
        raise UserError(f"'{path}' is not an IDX file")
    rank, dtype = content[3], np.dtype(_IDX_DTYPES[content[2]])
    start = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:start]) if len(content) >= start else ()
    if len(shape) != rank or len(content) != start + prod(shape) * dtype.itemsize:
        raise UserError(f"'{path}' is cut off: its size is not what its header says; fetch it again")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _labels_beside(path: Path) -> np.ndarray | None:
    """Labels of an IDX file of images: the same name with labels for images and idx1 for idx3."""
    name = re.sub("idx3", "idx1", re.sub("images", "labels", path.name))
    stem = name.removesuffix(".gz")
    for beside in (path.with_name(name), path.with_name(stem), path.with_name(stem + ".gz")):
        if name != path.name and beside.is_file():
            return read_idx(beside)
    return None


def idx_files(names: Sequence[str]) -> dict[str, str]:
    """The IDX image files among ``names`` by split, as in ``train-images-idx3-ubyte.gz``."""
    found: dict[str, str] = {}
    for name in names:
        match = _IDX_NAME.search(Path(name).name)
        if match:
            found.setdefault(SPLITS.get(match["split"].lower(), match["split"].lower() or "all"), name)
    return found


def open_idx(files: dict[str, Path], log: Log, labels: tuple[str, ...] | None = None) -> Parts:
    """IDX files of images, their labels found beside them by name.

    Args:
        files: by split.
        log: takes a line that says how the numbers were read, where that is a choice.
        labels: names of the classes; left out, their numbers.

    Raises:
        UserError: a file is broken.
    """
    images = {s: read_idx(path) for s, path in files.items()}
    tags = {s: _labels_beside(path) for s, path in files.items()}
    title = next(iter(files.values())).parent.name if len(files) > 1 else next(iter(files.values())).name
    return _parts(images, {s: a for s, a in tags.items() if a is not None}, title, log, labels)


def open_digits(log: Log) -> Parts:
    """The 1,797 handwritten digits of scikit-learn, 8x8 pixels and 17 greys (UCI; Alpaydin and Kaynak 1998).

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("'digits' lie in scikit-learn, which is not installed; run pip install scikit-learn") from None
    bunch: Any = load_digits()
    return _parts({"all": to_bytes(bunch.images, 255 / 16, 0.0)}, {"all": bunch.target}, "digits", log)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
