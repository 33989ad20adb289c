"""Arrays in .npy and .npz files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np

from fromnoise.data.arrays import array_splits
from fromnoise.data.format import Format
from fromnoise.data.source import SPLITS, Log, Splits
from fromnoise.registry import register
from fromnoise.utils.errors import UserError


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
        try:
            with path.open("rb") as raw:
                file = np.load(raw, allow_pickle=False)
                if isinstance(file, np.ndarray):
                    raise UserError(f"'{path}' is not a .npz file; name it .npy if it holds one array")
                arrays = {key: file[key] for key in file.files}
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(f"'{path}' cannot be read as .npz ({_first_line(error)}); save it again") from None
        return array_splits(*_images_and_labels(arrays, path), path.name, log)


@register("format", "npy")
@final
class NpyFile(Format):
    """One array in a .npy file, which is read from the disk as it is needed."""

    suffixes = (".npy",)

    def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
        """See ``Format``; files with Python objects are refused."""
        path = root / names[0]
        try:
            return array_splits({"all": np.load(path, mmap_mode="r", allow_pickle=False)}, {}, path.name, log)
        except (ValueError, EOFError) as error:
            raise UserError(f"'{path}' cannot be read as .npy ({_first_line(error)}); save it again") from None


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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
