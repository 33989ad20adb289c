"""Pictures of one shape, by number: in memory, or decoded as they are asked for."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fromnoise.data.decoding import prepare
from fromnoise.data.source import Log, Source, default_log
from fromnoise.utils.errors import UserError

Shape = tuple[int, int, int]
"""Channels, height, width."""


class Images(ABC):
    """Pictures of one shape."""

    def __init__(self, rows: Tensor, shape: Shape, labels: Tensor | None) -> None:
        """Keep which pictures of a larger whole these are, their shape and their classes."""
        if labels is not None and len(labels) != len(rows):
            raise ValueError(f"{len(rows)} images but {len(labels)} labels")
        self._rows = rows
        self.shape = shape
        self.labels = labels
        """Class of each picture, int64 (N,), or its attributes, float32 (N, A); None if there are none."""

    def __len__(self) -> int:
        """N, the number of pictures."""
        return len(self._rows)

    @property
    def rows(self) -> Tensor:
        """Where each picture stands in the set that it is a part of, int64 (N,)."""
        return self._rows

    @abstractmethod
    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures by their numbers.

        Args:
            indices: int64 (B,), in ``0 .. N-1``.

        Returns:
            uint8 (B, C, H, W), a copy; and their numbers, which are others where a file could not be read.
        """

    def get(self, indices: Tensor) -> Tensor:
        """As ``take``, the pictures alone."""
        return self.take(indices)[0]


@final
class MemoryImages(Images):
    """Pictures in one tensor."""

    def __init__(self, pixels: Tensor, labels: Tensor | None = None, rows: Tensor | None = None) -> None:
        """Take pictures as they are.

        Args:
            pixels: uint8 (M, C, H, W), kept and not copied.
            labels: int64 (N,).
            rows: which of the M these N are; left out, all.
        """
        _, channels, height, width = pixels.shape
        super().__init__(torch.arange(len(pixels)) if rows is None else rows, (channels, height, width), labels)
        self._pixels = pixels

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Images``."""
        return self._pixels.index_select(0, self._rows[indices]), indices


@final
class StreamedImages(Images):
    """Pictures decoded when they are asked for; safe to use from several threads.

    In place of a picture that cannot be read comes the next one that can: the same one whoever asks.
    """

    def __init__(
        self, source: Source, rows: Tensor, shape: Shape, labels: Tensor | None = None, log: Log = default_log
    ) -> None:
        """Read from a source.

        Args:
            source: where the pictures lie.
            rows: which of them these are.
            shape: what they are brought to.
            labels: int64 (N,).
            log: takes a line for each picture that cannot be read, once.
        """
        super().__init__(rows, shape, labels)
        self._source, self._log = source, log
        self._bad: set[int] = set()
        self._lock = threading.Lock()

    @property
    def skipped(self) -> int:
        """Number of pictures found unreadable so far."""
        return len(self._bad)

    def _one(self, index: int) -> tuple[np.ndarray, int]:
        count = len(self)
        for step in range(count):
            at = (index + step) % count
            if at in self._bad:
                continue
            row = int(self._rows[at])
            picture = decode(self._source, row, self.shape)
            if isinstance(picture, np.ndarray):
                return picture, at
            with self._lock:
                if at not in self._bad:
                    self._bad.add(at)
                    name = self._source.name(row)
                    self._log(f"{name} cannot be read ({picture}); the next image stands in for it")
        raise UserError(f"none of the {count} images can be read any more; is the disk or the network still there?")

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Images``."""
        if len(indices) == 0:
            return torch.empty((0, *self.shape), dtype=torch.uint8), indices
        pictures, shown = zip(*map(self._one, indices.tolist()), strict=True)
        return torch.from_numpy(np.stack(pictures)), torch.tensor(shown, dtype=torch.int64)


@dataclass(frozen=True)
class Attribute:
    """A number that is known of each picture.

    Attributes:
        name: of it.
        mean: over the pictures that are learned from.
        deviation: over them; 1 if it never varies.
    """

    name: str
    mean: float
    deviation: float


@dataclass(frozen=True)
class Data:
    """A set ready for use.

    Attributes:
        train: to learn from.
        held_out: never learned from.
        class_names: names of the classes; None if the images have none.
        shape: channels, height, width.
        fingerprint: hexadecimal digits that change when the data do.
        skipped: pictures left out because they could not be read.
        attributes: what the numbers are that stand in ``Images.labels``, if they were asked for in place of classes.
    """

    train: Images
    held_out: Images
    class_names: tuple[str, ...] | None
    shape: Shape
    fingerprint: str
    skipped: int
    attributes: tuple[Attribute, ...] | None = None


def why(error: Exception) -> str:
    """What is wrong with a picture, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def open_image(source: Source, i: int) -> Iterator[Image.Image | np.ndarray]:
    """Picture ``i`` of a source; its file is closed at the end."""
    picture = source.read(i)
    try:
        yield picture
    finally:
        if isinstance(picture, Image.Image):
            picture.close()


def decode(source: Source, i: int, shape: Shape) -> np.ndarray | str:
    """Picture ``i`` of a source as uint8 (C, H, W); or in words why it cannot be read."""
    channels, height, width = shape
    try:
        with open_image(source, i) as picture:
            return prepare(picture, height, width, channels)
    except UserError:
        raise
    except Exception as error:  # a broken file makes a decoder raise anything
        return why(error)
