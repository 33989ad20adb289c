"""Sources of images before decoding: random access to raw images, their classes and their names."""

from __future__ import annotations

import bisect
import difflib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import final

import numpy as np
from PIL import Image

from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import UnreadableFile, printable

Log = Callable[[str], None]
"""Takes one line of text for the user."""

default_log: Log = logging.getLogger("fromnoise.data").info

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing", "t10k"),
}
SPLITS = {alias: split for split, aliases in _SPLIT_NAMES.items() for alias in aliases}
"""Names that folders and files give to splits, each with the one name that this package uses."""
_SPLIT_NAME = re.compile(rf"(?<![a-z0-9])({'|'.join(SPLITS)})(?![a-z0-9])")


class Source(ABC):
    """Images by index as their files hold them: of any size and any mode."""

    attribute_names: tuple[str, ...] = ()
    """Names of the numbers that ``attribute_values`` returns."""
    damaged: tuple[str, ...] = ()
    """Files of the data set that are missing or damaged, each with the reason; their images are not among these."""

    def __init__(self, class_names: tuple[str, ...] | None = None, labels: Sequence[int | None] | None = None) -> None:
        """Store the classes.

        Args:
            class_names: names of the classes. A single class carries no information and counts as none.
            labels: class of each image, an index into ``class_names``; None where it is unknown.
        """
        self.class_names = class_names if class_names is not None and len(class_names) > 1 else None
        self._labels = labels

    def label(self, i: int) -> int | None:
        """Class of image ``i``, an index into ``class_names``; None if it is unknown."""
        return None if self.class_names is None or self._labels is None else self._labels[i]

    def attribute_values(self, i: int) -> tuple[float, ...] | None:
        """Attributes of image ``i``; None if they are unknown."""
        return None

    def label_codes(self) -> np.ndarray:
        """Class of each image, int64 (N,); -1 where it is unknown."""
        labels = (self.label(i) for i in range(len(self)))
        return np.fromiter((-1 if label is None else label for label in labels), np.int64, len(self))

    def identity(self) -> Iterator[bytes]:
        """Bytes that change when the files do: their names and sizes."""
        for i in range(len(self)):
            try:
                size = self.file_size(i)
            except (OSError, UnreadableFile):
                size = -1
            yield f"{self.name(i)}\0{size}\n".encode(errors="surrogateescape")

    def encoded(self, i: int) -> tuple[str, bytes] | None:
        """Suffix and content of the file of image ``i``; None if the images are not stored as files.

        Raises:
            Exception: the file cannot be read.
        """
        return None

    def prefetch(self, rows: Sequence[int]) -> None:  # noqa: B027  only remote files need it
        """Fetch the files of images that are read next, if they are far away."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images, unreadable ones included."""

    @abstractmethod
    def read(self, i: int) -> Image.Image | np.ndarray:
        """Return image ``i``: a Pillow image, possibly not decoded yet, or uint8 of shape (H, W) or (H, W, C).

        Raises:
            Exception: anything that a decoder raises when a file is damaged.
        """

    @abstractmethod
    def name(self, i: int) -> str:
        """Name of image ``i`` in messages and in the fingerprint; does not depend on where the data are stored."""

    @abstractmethod
    def file_size(self, i: int) -> int:
        """Bytes of image ``i`` as stored."""


Splits = dict[str, Source]
"""A data set by split: ``train``, ``validation``, ``test`` or names of its own; ``{"all": ...}`` if it has none."""


@final
class ConcatSource(Source):
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """Concatenate; classes and attributes are kept if all sources have the same."""
        super().__init__(sources[0].class_names if len({s.class_names for s in sources}) == 1 else None)
        self.attribute_names = sources[0].attribute_names if len({s.attribute_names for s in sources}) == 1 else ()
        self._sources = list(sources)
        self._ends = list(accumulate(len(s) for s in sources))

    def _locate(self, i: int) -> tuple[Source, int]:
        number = bisect.bisect_right(self._ends, i)
        return self._sources[number], i - (self._ends[number - 1] if number else 0)

    def __len__(self) -> int:
        """Number of images."""
        return self._ends[-1]

    def label(self, i: int) -> int | None:
        """See ``Source``."""
        source, j = self._locate(i)
        return None if self.class_names is None else source.label(j)

    def label_codes(self) -> np.ndarray:
        """See ``Source``."""
        return np.concatenate([source.label_codes() for source in self._sources])

    def identity(self) -> Iterator[bytes]:
        """See ``Source``."""
        for source in self._sources:
            yield from source.identity()

    def encoded(self, i: int) -> tuple[str, bytes] | None:
        """See ``Source``."""
        source, j = self._locate(i)
        return source.encoded(j)

    def prefetch(self, rows: Sequence[int]) -> None:
        """See ``Source``."""
        by_source: dict[int, list[int]] = {}
        for i in rows:
            number = bisect.bisect_right(self._ends, i)
            by_source.setdefault(number, []).append(i - (self._ends[number - 1] if number else 0))
        for number, chosen in by_source.items():
            self._sources[number].prefetch(chosen)

    def attribute_values(self, i: int) -> tuple[float, ...] | None:
        """See ``Source``."""
        source, j = self._locate(i)
        return source.attribute_values(j)

    def read(self, i: int) -> Image.Image | np.ndarray:
        """See ``Source``."""
        source, j = self._locate(i)
        return source.read(j)

    def name(self, i: int) -> str:
        """See ``Source``."""
        source, j = self._locate(i)
        return source.name(j)

    def file_size(self, i: int) -> int:
        """See ``Source``."""
        source, j = self._locate(i)
        return source.file_size(j)


def encode_labels(
    labels: Mapping[str, Sequence[int | str | None]], class_names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], dict[str, list[int | None]]]:
    """Map the labels of all splits to class indices.

    Args:
        labels: label of each image of each split; None where it is unknown.
        class_names: names of the classes, in which case the labels are class indices and any other value is
            unknown. If omitted, the sorted distinct labels are the classes, as words if some of them are words.

    Returns:
        The class names, and for each split the class index of each image.
    """
    if class_names is None:
        present = {label for split in labels.values() for label in split if label is not None}
        if len({isinstance(label, str) for label in present}) > 1:  # 3 and "cat" cannot be sorted
            labels = {name: [None if v is None else str(v) for v in split] for name, split in labels.items()}
            present = set(map(str, present))
        known = sorted(present)
        class_names = tuple(printable(str(label)) for label in known)
    else:
        known = range(len(class_names))
    index = {label: k for k, label in enumerate(known)}
    return class_names, {
        name: [None if label is None else index.get(label) for label in split] for name, split in labels.items()
    }


def group_by_split(names: Sequence[str]) -> dict[str, list[str]]:
    """Group files by the split in their names or folders; all in one group if a name has none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        found = _SPLIT_NAME.findall(name.lower())
        if not found:
            return {"all": list(names)}
        groups.setdefault(SPLITS[found[-1]], []).append(name)
    return groups


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'mnist'?"`` if a known name is similar, otherwise the empty string."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def select_split(splits: Splits, split: str | None, spec: str) -> Source:
    """Return one split of a data set, or all of them concatenated.

    Args:
        splits: the data set.
        split: name or alias of a split; None or ``all`` for the whole data set.
        spec: the SPEC that the user gave, for the message.

    Raises:
        UserError: there is no such split.
    """
    if split is None or split == "all":
        return next(iter(splits.values())) if len(splits) == 1 else ConcatSource(list(splits.values()))
    for name in (split, SPLITS.get(split.lower(), split)):
        if name in splits:
            return splits[name]
    names = [name for name in splits if name != "all"]
    available = "it has " + ", ".join(names) if names else "it is not split"
    raise UserError(f"'{spec}' has no split '{split}' ({available}){did_you_mean(split, names)}")
