"""The endless stream of training batches, addressed by position."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count as count_from
from typing import final

import torch
from torch import Tensor

from fromnoise.data.dataset import Images, MemoryImages
from fromnoise.data.shuffling import flip_mask, shuffled_indices


@dataclass(frozen=True)
class Batch:
    """Consecutive images of the stream.

    Attributes:
        pixels: as of the data set, uint8 (B, C, H, W), mirrored at the positions that ``flip_mask`` selects.
        labels: classes, int64 (B,), or attributes, float32 (B, A); None if there are none.
        indices: index of each image in the data set, int64 (B,).
        positions: position of each image in the stream, int64 (B,).
    """

    pixels: Tensor
    labels: Tensor | None
    indices: Tensor
    positions: Tensor


@final
class BatchStream:
    """Images in an order that is a function of (seed, position) alone.

    Batch size, number of processes and first step select positions; they do not change the image at a position.
    """

    def __init__(self, images: Images, seed: int, flip: bool = False, workers: int = 0, prefetch: int = 2) -> None:
        """Stream over a data set.

        Args:
            images: the data set; not empty.
            seed: of order and flips.
            flip: mirror half of the images.
            workers: threads that decode ahead if the images are not in memory; 0 decodes in the calling thread.
            prefetch: batches decoded ahead, at least one for each worker.
        """
        if len(images) == 0:
            raise ValueError("a stream needs at least one image")
        self.images, self._seed, self._flip = images, seed, flip
        self._workers, self._prefetch = workers, max(prefetch, workers)

    def batch(self, positions: range | Tensor) -> Batch:
        """Return the images at given positions.

        Args:
            positions: (B,), from 0 without limit, in any order.
        """
        chosen = shuffled_indices(len(self.images), self._seed, positions)
        if self._flip:
            pixels, indices = self.images.get_mirrored(chosen, flip_mask(self._seed, positions))
        else:
            pixels, indices = self.images.get_with_indices(chosen)
        labels = None if self.images.labels is None else self.images.labels[indices]
        flat = torch.arange(positions.start, positions.stop) if isinstance(positions, range) else positions
        return Batch(pixels, labels, indices, flat)

    def iterate(self, start: int, count: int, rank: int = 0, world: int = 1) -> Generator[Batch]:
        """Iterate over batches without end.

        Each step of all processes together uses the next ``world * count`` positions; process ``rank`` gets the
        slice from ``rank * count`` to ``(rank + 1) * count``.

        Args:
            start: first position of the first step, over all processes.
            count: images per step and process.
            rank: number of this process.
            world: number of processes.
        """
        firsts = count_from(start + rank * count, world * count)
        if self._workers == 0 or isinstance(self.images, MemoryImages):
            for first in firsts:
                yield self.batch(range(first, first + count))
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        ahead: deque[Future[Batch]] = deque()
        try:
            for first in firsts:
                ahead.append(pool.submit(self.batch, range(first, first + count)))
                if len(ahead) > self._prefetch:
                    yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
