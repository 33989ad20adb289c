"""Images in one array, with labels in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from fromnoise.data.source import Log, Source, Splits, encode_labels
from fromnoise.data.value_range import ValueRange, infer_value_range
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import check_pixels

_CHUNK = 1 << 24  # values whose minimum and maximum are computed together


@final
class ArraySource(Source):
    """Images in one array."""

    def __init__(
        self,
        array: np.ndarray,
        title: str,
        log: Log,
        class_names: tuple[str, ...] | None = None,
        labels: Sequence[int | None] | None = None,
    ) -> None:
        """Infer the layout and the value range of an array.

        Args:
            array: (N, H, W), (N, C, H, W) or (N, H, W, C); uint8, or values of a usual range.
            title: name of the array in messages.
            log: takes a line that says which value range was inferred, if the values are not bytes.
            class_names: names of the classes.
            labels: class of each image.

        Raises:
            UserError: the array has another shape, values outside of the usual ranges or values that are not finite,
                or the number of labels differs.
        """
        super().__init__(class_names, labels)
        if array.ndim not in (3, 4) or array.dtype.kind not in "buif" or 0 in array.shape[1:]:
            raise UserError(
                f"{title} has shape {array.shape} and type {array.dtype}; "
                "images are numbers of shape (N, H, W), (N, C, H, W) or (N, H, W, C)"
            )
        if labels is not None and len(labels) != len(array):
            raise UserError(f"{title} has {len(array)} images but {len(labels)} labels; give one label per image")
        if array.ndim == 4 and not channels_last(array.shape[1:]):
            array = array.transpose(0, 2, 3, 1)
        try:
            check_pixels(*array.shape[1:3])
        except ValueError as error:
            raise UserError(f"{title}: {error}") from None
        self._array, self._title = array, title
        self._range: ValueRange | None = None
        if array.dtype != np.uint8 and len(array):
            self._range = array_value_range([array], title)
            log(f"{title}: {array.dtype} values interpreted as {self._range.description}")

    def __len__(self) -> int:
        """Number of images."""
        return len(self._array)

    def read(self, i: int) -> np.ndarray:
        """Image ``i`` as uint8 (H, W) or (H, W, C)."""
        image = self._array[i]
        return np.asarray(image) if self._range is None else self._range.to_uint8(image)

    def name(self, i: int) -> str:
        """Index in the array."""
        return f"image {i} of {self._title}"

    def file_size(self, i: int) -> int:
        """Bytes in the array."""
        return self._array[i].nbytes


def array_value_range(arrays: Sequence[np.ndarray], title: str) -> ValueRange:
    """Infer the common value range of arrays of one type.

    Args:
        arrays: not empty; each has a first axis, along which it is read in chunks.
        title: their name in messages.

    Raises:
        UserError: values are not finite or outside of the usual ranges.
    """
    lows, highs = [], []
    for array in arrays:
        rows = max(1, _CHUNK // max(1, array[0].size))
        for start in range(0, len(array), rows):
            chunk = array[start : start + rows]
            lows.append(float(chunk.min()))
            highs.append(float(chunk.max()))
    low, high = float(np.min(lows)), float(np.max(highs))
    if not np.isfinite([low, high]).all():
        raise UserError(f"{title} has values that are not finite; replace them")
    found = infer_value_range(arrays[0].dtype.kind, low, high)
    if found is None:
        raise UserError(f"{title} spans {low:.4g} to {high:.4g}; scale it to [0, 1], [-1, 1] or 0..255")
    return found


def channels_last(shape: Sequence[int]) -> bool:
    """Whether an image of three axes is (H, W, C) rather than (C, H, W).

    The axis that is 1, 3 or 4 is the channels; if both or neither are, the smaller axis, and the first if they are
    equal.
    """
    first, last = shape[0], shape[2]
    typical = {1, 3, 4}
    return last in typical if (first in typical) != (last in typical) else last < first


def label_list(labels: np.ndarray, title: str) -> list[int | str | None]:
    """Check an array of labels and return them as Python values.

    Raises:
        UserError: they are not one whole number or word per image.
    """
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or flat.dtype.kind not in "uiUSb":
        raise UserError(
            f"the labels of {title} have shape {labels.shape} and type {labels.dtype}; "
            "give one whole number or word per image"
        )
    return [v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for v in flat.tolist()]


def array_splits(
    images: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    title: str,
    log: Log,
    class_names: tuple[str, ...] | None = None,
) -> Splits:
    """Make a data set of arrays.

    Args:
        images: array of each split; ``{"all": ...}`` if there are no splits.
        labels: labels of the splits that have some.
        title: name of the data set in messages.
        log: as of ``ArraySource``.
        class_names: names of the classes, in which case the labels are class indices.

    Raises:
        UserError: as ``ArraySource`` and ``label_list``.
    """
    lists = {split: label_list(array, title) for split, array in labels.items()}
    names, encoded = encode_labels(lists, class_names)
    return {
        split: ArraySource(
            array,
            title if split == "all" else f"{title} ({split})",
            log,
            names if split in encoded else None,
            encoded.get(split),
        )
        for split, array in images.items()
    }
