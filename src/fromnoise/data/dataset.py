"""Images of one shape by index: in memory, or decoded when they are requested."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fromnoise.data.decoding import Resize, decode_error, prepare
from fromnoise.data.source import Log, Source, default_log
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import UnreadableFile

Shape = tuple[int, int, int]
"""Channels, height, width."""


class Images(ABC):
    """Images of one shape."""

    def __init__(self, rows: Tensor, shape: Shape, labels: Tensor | None) -> None:
        """Store which rows of a larger data set these are, their shape and their labels."""
        if labels is not None and len(labels) != len(rows):
            raise ValueError(f"{len(rows)} images but {len(labels)} labels")
        self._rows = rows
        self.shape = shape
        self.labels = labels
        """Class of each image, int64 (N,), or its attributes, float32 (N, A); None if there are none."""

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self._rows)

    @property
    def rows(self) -> Tensor:
        """Index of each image in the data set that these are a part of, int64 (N,)."""
        return self._rows

    @abstractmethod
    def get_with_indices(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images by index.

        Args:
            indices: int64 (B,), from 0 to N - 1.

        Returns:
            uint8 (B, C, H, W), a copy; and the indices of these images, which differ from the requested ones where
            a file could not be read.
        """

    def get_mirrored(self, indices: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """As ``get_with_indices``, with the images of a mask, bool (B,), mirrored."""
        pixels, used = self.get_with_indices(indices)
        pixels[mirrored] = pixels[mirrored].flip(-1)
        return pixels, used

    def get(self, indices: Tensor) -> Tensor:
        """Return images by index: int64 (B,) to uint8 (B, C, H, W), a copy."""
        return self.get_with_indices(indices)[0]


@final
class MemoryImages(Images):
    """Images in one tensor."""

    def __init__(self, pixels: Tensor, labels: Tensor | None = None, rows: Tensor | None = None) -> None:
        """Use a tensor without copying it.

        Args:
            pixels: uint8 (M, C, H, W).
            labels: int64 (N,).
            rows: which N of the M images to use, int64 (N,); all if omitted.
        """
        _, channels, height, width = pixels.shape
        super().__init__(torch.arange(len(pixels)) if rows is None else rows, (channels, height, width), labels)
        self._pixels = pixels

    def get_with_indices(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Images``."""
        return self._pixels.index_select(0, self._rows[indices]), indices


@final
class StreamedImages(Images):
    """Images decoded when they are requested; safe to use from several threads.

    An image that cannot be read is replaced by the next readable one, which is the same one in every process.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        shape: Shape,
        labels: Tensor | None = None,
        log: Log = default_log,
        resize: Resize = "lanczos",
    ) -> None:
        """Decode from a source.

        Args:
            source: the images.
            rows: which of them to use, int64 (N,).
            shape: to which each is cropped and resized.
            labels: int64 (N,).
            log: takes one line for each image that cannot be read.
            resize: filter.
        """
        super().__init__(rows, shape, labels)
        self._source, self._log = source, log
        self._resize: Resize = resize
        self._unreadable: set[int] = set()
        self._lock = threading.Lock()

    @property
    def skipped(self) -> int:
        """Number of images found unreadable so far."""
        return len(self._unreadable)

    def _read_or_next(self, index: int) -> tuple[np.ndarray, int]:
        count = len(self)
        for offset in range(count):
            i = (index + offset) % count
            if i in self._unreadable:
                continue
            row = int(self._rows[i])
            image = decode(self._source, row, self.shape, self._resize)
            if isinstance(image, np.ndarray):
                return image, i
            with self._lock:
                if i not in self._unreadable:
                    self._unreadable.add(i)
                    name = self._source.name(row)
                    self._log(f"{name} cannot be read ({image}); the next image is used instead")
        raise UserError(f"none of the {count} images can be read any more: check the disk or the network")

    def get_with_indices(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Images``."""
        if len(indices) == 0:
            return torch.empty((0, *self.shape), dtype=torch.uint8), indices
        self._source.prefetch(self._rows[indices].tolist())
        images, used = zip(*map(self._read_or_next, indices.tolist()), strict=True)
        return torch.from_numpy(np.stack(images)), torch.tensor(used, dtype=torch.int64)


@dataclass(frozen=True)
class Attribute:
    """A number that is known for each image.

    Attributes:
        name: of the attribute.
        mean: over the training images.
        deviation: standard deviation over the training images; 1 if the attribute is constant.
    """

    name: str
    mean: float
    deviation: float


@dataclass(frozen=True)
class Data:
    """A data set that is ready for training.

    Attributes:
        train: training images.
        held_out: images that are not trained on.
        class_names: names of the classes; None if the images have no labels.
        shape: channels, height, width.
        fingerprint: hexadecimal digits that change when the data change.
        skipped: number of images left out because they could not be read.
        attributes: describes the columns of ``Images.labels`` if attributes were requested instead of classes.
    """

    train: Images
    held_out: Images
    class_names: tuple[str, ...] | None
    shape: Shape
    fingerprint: str
    skipped: int
    attributes: tuple[Attribute, ...] | None = None


@contextmanager
def open_image(source: Source, i: int) -> Iterator[Image.Image | np.ndarray]:
    """Open image ``i`` of a source; its file is closed at the end."""
    image = source.read(i)
    try:
        yield image
    finally:
        if isinstance(image, Image.Image):
            image.close()


def decode(source: Source, i: int, shape: Shape, resize: Resize = "lanczos") -> np.ndarray | str:
    """Decode image ``i`` of a source to uint8 (C, H, W); if it cannot be read, return the reason as a string."""
    channels, height, width = shape
    try:
        with open_image(source, i) as image:
            return prepare(image, height, width, channels, resize)
    except UserError as error:
        if isinstance(error, UnreadableFile):
            return decode_error(error)
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        return decode_error(error)
