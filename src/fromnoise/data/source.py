"""A source of pictures, whatever it lies in: random access to raw pictures, their labels and their names."""

from __future__ import annotations

import bisect
import difflib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import final

import numpy as np
from PIL import Image

from fromnoise.utils.errors import UserError

Log = Callable[[str], None]
"""Takes one line meant for the person who waits."""

default_log: Log = logging.getLogger("fromnoise.data").info

_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing", "t10k"),
}
SPLITS = {alias: split for split, aliases in _ALIASES.items() for alias in aliases}
"""Names by which splits go in folders and files, and the one name that they have here."""


class Source(ABC):
    """Pictures by number, as they lie in the files: any size, any mode."""

    attributes: tuple[str, ...] = ()
    """Names of the numbers that ``values`` gives."""

    def __init__(self, labels: tuple[str, ...] | None = None, codes: Sequence[int | None] | None = None) -> None:
        """Keep the classes.

        Args:
            labels: names of the classes; a single class says nothing and counts as none.
            codes: the class of each picture, an index into ``labels``; None where it is unknown.
        """
        self.class_names = labels if labels is not None and len(labels) > 1 else None
        self._codes = codes

    def label(self, i: int) -> int | None:
        """The class of picture ``i``, an index into ``labels``; None if there is none."""
        return None if self.class_names is None or self._codes is None else self._codes[i]

    def values(self, i: int) -> tuple[float, ...] | None:
        """The attributes of picture ``i``; None if they are not known."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Number of pictures, unreadable ones included."""

    @abstractmethod
    def read(self, i: int) -> Image.Image | np.ndarray:
        """Picture ``i``: a Pillow image, perhaps not yet decoded, or uint8 of shape (H, W) or (H, W, C).

        Raises:
            Exception: anything that a decoder raises when a file is broken.
        """

    @abstractmethod
    def name(self, i: int) -> str:
        """What to call picture ``i`` in a message; the same wherever the set lies."""

    @abstractmethod
    def size(self, i: int) -> int:
        """Bytes that picture ``i`` takes as it lies in the file."""


Parts = dict[str, Source]
"""A set by its splits: ``train``, ``validation``, ``test`` or its own; ``{"all": ...}`` if it has none."""


@final
class Joined(Source):
    """Several sources one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """Join; the labels stay if every source has the same."""
        super().__init__(sources[0].class_names if len({s.class_names for s in sources}) == 1 else None)
        self.attributes = sources[0].attributes if len({s.attributes for s in sources}) == 1 else ()
        self._sources = list(sources)
        self._ends = list(accumulate(len(s) for s in sources))

    def _at(self, i: int) -> tuple[Source, int]:
        which = bisect.bisect_right(self._ends, i)
        return self._sources[which], i - (self._ends[which - 1] if which else 0)

    def __len__(self) -> int:
        """Number of pictures."""
        return self._ends[-1]

    def label(self, i: int) -> int | None:
        """As the source of that picture says."""
        source, j = self._at(i)
        return None if self.class_names is None else source.label(j)

    def values(self, i: int) -> tuple[float, ...] | None:
        """As the source of that picture says."""
        source, j = self._at(i)
        return source.values(j)

    def read(self, i: int) -> Image.Image | np.ndarray:
        """From the source that holds it."""
        source, j = self._at(i)
        return source.read(j)

    def name(self, i: int) -> str:
        """As the source of that picture says."""
        source, j = self._at(i)
        return source.name(j)

    def size(self, i: int) -> int:
        """As the source of that picture says."""
        source, j = self._at(i)
        return source.size(j)


def encode(
    values: Mapping[str, Sequence[int | str | None]], names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], dict[str, list[int | None]]]:
    """Number the labels of all splits together.

    Args:
        values: the label of each picture of each split; None where unknown.
        names: of the classes, whose numbers the labels then are, any other number being unknown; left out,
            the distinct labels in sorted order are the classes.

    Returns:
        The names, and for each split the class of each picture.
    """
    if names is None:
        known = sorted({v for part in values.values() for v in part if v is not None})
        names = tuple(map(str, known))
    else:
        known = range(len(names))
    code = {v: k for k, v in enumerate(known)}
    return names, {s: [None if v is None else code.get(v) for v in part] for s, part in values.items()}


def nearest(name: str, names: Sequence[str]) -> str:
    """``"; did you mean 'mnist'?"`` if one of the names is close, else nothing."""
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def pick(parts: Parts, split: str | None, spec: str) -> Source:
    """One split of a set, or all of it.

    Args:
        parts: the set.
        split: its name or an alias of it; None or ``all`` for everything.
        spec: what the user called the set.

    Raises:
        UserError: there is no such split.
    """
    if split is None or split == "all":
        return next(iter(parts.values())) if len(parts) == 1 else Joined(list(parts.values()))
    for name in (split, SPLITS.get(split.lower(), split)):
        if name in parts:
            return parts[name]
    names = [name for name in parts if name != "all"]
    have = "it has " + ", ".join(names) if names else "it is not split"
    raise UserError(f"'{spec}' has no split '{split}' ({have}){nearest(split, names)}")
