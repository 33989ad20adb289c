"""From sources to training and held-out images of one shape."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from math import prod
from typing import final

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.dataset import Attribute, Data, Images, MemoryImages, Shape, StreamedImages, decode
from fromnoise.data.decoding import Resize
from fromnoise.data.image_shape import choose_shape
from fromnoise.data.shuffling import shuffled_indices
from fromnoise.data.source import Log, Source
from fromnoise.utils.errors import UserError

_MAX_HELD_OUT = 10_000  # enough to measure a loss to 1 %
_DECODED_TOGETHER = 64  # images that a thread decodes before it reports
_HASHED_TOGETHER = 1024
_HOLD_OUT_EPOCH = -1  # the epoch whose permutation selects the held-out images; the stream has no epochs below 0

OnProgress = Callable[[int, int], object]
"""Called with the number of decoded images and the number of all images."""


@dataclass(frozen=True)
class _Part:
    """Images of one source.

    Attributes:
        source: the source.
        rows: its readable images, as far as is known.
        labels: their classes, int64, or attributes, float32; None unless every image has some.
        pixels: all images of the source, uint8 (N, C, H, W); None if they are decoded when they are requested.
    """

    source: Source
    rows: Tensor
    labels: Tensor | None
    pixels: Tensor | None = None

    def images(self, chosen: Tensor, shape: Shape, resize: Resize, log: Log) -> Images:
        """Some of the images, by their place in ``rows``."""
        labels = None if self.labels is None else self.labels[chosen]
        if self.pixels is not None:
            return MemoryImages(self.pixels, labels, self.rows[chosen])
        return StreamedImages(self.source, self.rows[chosen], shape, labels, log, resize)


def labels_of(source: Source) -> Tensor | None:
    """Class of each image, int64 (N,); None unless every image has one."""
    if source.class_names is None:
        return None
    codes = source.label_codes()
    return None if (codes < 0).any() else torch.from_numpy(codes)


def _attributes_of(source: Source) -> Tensor | None:
    """Attributes of each image, float32 (N, A); None unless every image has them."""
    values = [source.attribute_values(i) for i in range(len(source))] if source.attribute_names else [None]
    known = [v for v in values if v is not None]
    return torch.tensor(known, dtype=torch.float32) if len(known) == len(values) else None


def _attribute_statistics(source: Source, values: Tensor) -> tuple[Attribute, ...]:
    deviation, mean = torch.std_mean(values.double(), dim=0, correction=0)
    return tuple(
        Attribute(name, float(m), float(d) or 1.0)
        for name, m, d in zip(source.attribute_names, mean, deviation, strict=True)
    )


@final
class _Decoder:
    """Decodes sources into memory with several threads; Pillow releases the interpreter lock."""

    def __init__(self, shape: Shape, resize: Resize, total: int, workers: int, on_progress: OnProgress | None) -> None:
        self._shape, self._total, self._on_progress = shape, total, on_progress
        self._resize: Resize = resize
        self._workers = workers or min(8, os.cpu_count() or 1)
        self._done = 0
        self.unreadable: list[str] = []

    def _decode_rows(self, source: Source, rows: range, out: np.ndarray) -> dict[int, str]:
        """Decode into ``out``; return the reason for each image that cannot be read."""
        reasons = {}
        source.prefetch(rows)
        for i in rows:
            image = decode(source, i, self._shape, self._resize)
            if isinstance(image, np.ndarray):
                out[i] = image
            else:
                reasons[i] = image
        return reasons

    def decode(self, part: _Part, title: str) -> _Part:
        """The part with its pixels and without unreadable images."""
        source = part.source
        out = np.zeros((len(source), *self._shape), dtype=np.uint8)
        reasons: dict[int, str] = {}
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        try:
            starts = range(0, len(source), _DECODED_TOGETHER)
            chunks = [range(i, min(i + _DECODED_TOGETHER, len(source))) for i in starts]
            jobs = {pool.submit(self._decode_rows, source, chunk, out): len(chunk) for chunk in chunks}
            for job in as_completed(jobs):
                reasons.update(job.result())
                self._done += jobs[job]
                if self._on_progress is not None:
                    self._on_progress(self._done, self._total)
        finally:
            pool.shutdown(cancel_futures=True)
        self.unreadable += [f"{source.name(i)} ({reason})" for i, reason in sorted(reasons.items())]
        if len(reasons) == len(source):
            raise UserError(f"none of the images of {title} can be read ({self.unreadable[-1]}); check the files")
        rows = torch.tensor([i for i in range(len(source)) if i not in reasons], dtype=torch.int64)
        return _Part(source, rows, None if part.labels is None else part.labels[rows], torch.from_numpy(out))

    def log_unreadable(self, log: Log) -> None:
        """Name the images that were left out."""
        if self.unreadable:
            more = f" and {len(self.unreadable) - 10} more" if len(self.unreadable) > 10 else ""
            names = ", ".join(self.unreadable[:10])
            log(f"left out {len(self.unreadable)} of {self._total} images that cannot be read: {names}{more}")


def _hold_out(n: int, share: float, seed: int, log: Log) -> tuple[Tensor, Tensor]:
    """Divide ``0 .. n-1`` into training and held-out indices, each in ascending order."""
    if n < 2:
        log("there is only one image, which is used for training and as the held-out image")
        return torch.arange(n), torch.arange(n)
    count = min(max(1, round(share * n)), n // 2, _MAX_HELD_OUT)
    held_out = torch.zeros(n, dtype=torch.bool)
    first = n * _HOLD_OUT_EPOCH
    held_out[shuffled_indices(n, seed, range(first, first + count))] = True
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()


def _fingerprint(parts: Sequence[_Part], shape: Shape, resize: Resize) -> str:
    """Hash of labels and pixels; of the names and sizes of the files where the pixels are not in memory."""
    sha = hashlib.sha256(repr(shape if resize == "lanczos" else (shape, resize)).encode())
    for part in parts:
        sha.update(repr((part.source.class_names, len(part.rows))).encode())
        if part.labels is not None:
            sha.update(part.labels.numpy().astype("<f4" if part.labels.is_floating_point() else "<i8").tobytes())
        if part.pixels is not None:
            for rows in part.rows.split(_HASHED_TOGETHER):
                sha.update(part.pixels[rows].numpy().tobytes())
            continue
        for block in part.source.identity():
            sha.update(block)
    return sha.hexdigest()[:16]


def assemble(
    train_source: Source,
    title: str,
    *,
    held_out_source: Source | None = None,
    held_out_name: str = "",
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: Resize = "lanczos",
    holdout: float = 0.05,
    seed: int = 0,
    memory_limit: int = 4 << 30,
    workers: int = 0,
    attributes: bool = False,
    log: Log,
    on_progress: OnProgress | None = None,
) -> Data:
    """Bring the images of a source to one shape and hold a part of them out.

    Args:
        train_source: images to train on.
        title: the data set in messages.
        held_out_source: images to hold out; if omitted, ``holdout`` of the training images, selected by ``seed``.
        held_out_name: describes ``held_out_source``, for the log.
        size: see ``load``.
        channels: see ``load``.
        resize: see ``load``.
        holdout: see ``load``.
        seed: see ``load``.
        memory_limit: see ``load``.
        workers: see ``load``.
        attributes: see ``load``.
        log: see ``load``.
        on_progress: see ``load``.

    Raises:
        UserError: no image can be read, or they cannot be brought to the shape.
    """
    if not 0 < holdout < 1:
        raise UserError(f"the share of held-out images is {holdout:g}; give one between 0 and 1, such as 0.05")
    if len(train_source) == 0:
        raise UserError(f"{title} holds no images; add some")
    sources = [train_source, *([held_out_source] if held_out_source is not None else [])]
    shape = choose_shape(sources, title, size, channels, log)
    read_labels = _attributes_of if attributes else labels_of
    parts = [_Part(source, torch.arange(len(source)), read_labels(source)) for source in sources]
    if attributes and any(part.labels is None for part in parts):
        raise UserError(
            f"{title} does not have attributes of every image: put a labels.csv beside the images, with a column of "
            "file names and columns of numbers"
        )
    class_names = train_source.class_names
    if class_names is not None and parts[0].labels is None:
        log("some images have no label, so the labels are not used")
    total = sum(len(source) for source in sources)
    decoder = _Decoder(shape, resize, total, workers, on_progress)
    in_memory = total * prod(shape) <= memory_limit
    if in_memory:
        parts = [decoder.decode(part, title) for part in parts]
        decoder.log_unreadable(log)
    if len(parts) == 2:
        train, held_out = (part.images(torch.arange(len(part.rows)), shape, resize, log) for part in parts)
    else:
        kept, withheld = _hold_out(len(parts[0].rows), holdout, seed, log)
        train, held_out = (parts[0].images(chosen, shape, resize, log) for chosen in (kept, withheld))
        held_out_name = f"by seed {seed}"
    colours = {1: "grey", 3: "RGB"}.get(shape[0], f"{shape[0]} channels")
    size_and_colours = f"{shape[1]}x{shape[2]}, {colours}"
    storage = "in memory" if in_memory else "decoded on demand"
    log(f"{len(train)} images of {size_and_colours}; {len(held_out)} held out ({held_out_name}); {storage}")
    return Data(
        train,
        held_out,
        None if parts[0].labels is None or attributes else class_names,
        shape,
        _fingerprint(parts, shape, resize),
        len(decoder.unreadable),
        _attribute_statistics(train_source, train.labels) if attributes and train.labels is not None else None,
    )
