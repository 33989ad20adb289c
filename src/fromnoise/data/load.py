"""From a data SPEC to pictures of one shape, with a part held out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from math import prod
from statistics import median_low
from typing import final

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.dataset import Attribute, Data, Images, MemoryImages, Shape, StreamedImages, decode, open_image, why
from fromnoise.data.decoding import channels_needed, display_size
from fromnoise.data.shuffling import permutation
from fromnoise.data.source import Log, Source, default_log, pick
from fromnoise.data.spec import open_parts, parse
from fromnoise.utils.errors import UserError

_LOOK = 1024  # pictures looked at before size and channels are chosen
_SIDE = 64  # the largest side chosen for pictures of mixed sizes, or too large to train on as they are
_LARGE = 256  # the largest side that pictures of one size keep
_LARGEST = 16_384  # pixels a side that can be asked for
_HELD = 10_000  # enough to measure a loss to a per cent; more is better learned from
_CHUNK = 64  # pictures that a thread decodes before it reports
_HOLD_OUT = -1  # the epoch whose order picks the held-out pictures; the stream has none below 0

Progress = Callable[[int, int], None]
"""Takes how many pictures are decoded and how many there are."""


@dataclass(frozen=True)
class _Part:
    """A source brought to one shape.

    Attributes:
        source: the source.
        rows: its pictures that can be read, as far as is known.
        labels: their classes, int64; None unless every picture has one.
        pixels: every picture of the source, uint8 (N, C, H, W); None to decode them when they are asked for.
    """

    source: Source
    rows: Tensor
    labels: Tensor | None
    pixels: Tensor | None = None

    def images(self, chosen: Tensor, shape: Shape, log: Log) -> Images:
        """Some of the rows, by their place in ``rows``."""
        labels = None if self.labels is None else self.labels[chosen]
        if self.pixels is not None:
            return MemoryImages(self.pixels, labels, self.rows[chosen])
        return StreamedImages(self.source, self.rows[chosen], shape, labels, log)


def _labels(source: Source) -> Tensor | None:
    """The class of each picture; None unless every picture has one."""
    if source.class_names is None:
        return None
    codes = [source.label(i) for i in range(len(source))]
    return None if None in codes else torch.tensor(codes, dtype=torch.int64)


def _attributes(source: Source) -> Tensor | None:
    """The attributes of each picture, float32 (N, A); None unless every picture has them."""
    values = [source.values(i) for i in range(len(source))] if source.attributes else [None]
    known = [v for v in values if v is not None]
    return torch.tensor(known, dtype=torch.float32) if len(known) == len(values) else None


def _described(source: Source, values: Tensor) -> tuple[Attribute, ...]:
    deviation, mean = torch.std_mean(values.double(), dim=0, correction=0)
    return tuple(
        Attribute(name, float(m), float(d) or 1.0)
        for name, m, d in zip(source.attributes, mean, deviation, strict=True)
    )


def _choose(spec: str, log: Log) -> tuple[list[Source], str]:
    """What to learn from; behind it what to hold out, if the set says so, and that in words."""
    name, split = parse(spec)
    parts = open_parts(name, log)
    if split is not None or "train" not in parts:
        return [pick(parts, split, spec)], ""
    train = parts["train"]
    for own in ("test", "validation"):
        if own not in parts or len(parts[own]) == 0:
            continue
        if _labels(train) is None or _labels(parts[own]) is not None:
            return [train, parts[own]], f"its {own} split"
        log(f"the {own} split has no labels, so it is not what is held out")
    return [train], ""


def _examine(sources: Sequence[Source], spec: str, channels: int | None) -> tuple[list[tuple[int, int]], int]:
    """Sizes of pictures and the channels that they need, from a sample spread evenly over the set."""
    sizes: list[tuple[int, int]] = []
    depth, first = channels or 0, ""
    for source in sources:
        for i in np.unique(np.linspace(0, len(source) - 1, min(len(source), _LOOK)).astype(int)).tolist():
            try:
                with open_image(source, i) as picture:
                    size = display_size(picture)
                    if channels is None and depth < 2:
                        depth = max(depth, channels_needed(picture))
                sizes.append(size)
            except Exception as error:  # a broken file makes a decoder raise anything
                first = first or f"{source.name(i)}: {why(error)}"
    if not sizes:
        raise UserError(f"none of the images of '{spec}' can be read ({first})")
    return sizes, depth


def _shape(
    sources: Sequence[Source], spec: str, size: int | tuple[int, int] | None, channels: int | None, log: Log
) -> Shape:
    """The shape asked for, and what the data say where nothing is asked."""
    asked = (size, size) if isinstance(size, int) else size
    if asked is not None and not 1 <= min(asked) <= max(asked) <= _LARGEST:
        raise UserError(f"images cannot be {asked[0]}x{asked[1]} pixels; give a side from 1 to {_LARGEST}")
    if channels is not None and channels < 1:
        raise UserError(f"images cannot have {channels} channels; give 1 for grey or 3 for colour")
    sizes, depth = _examine(sources, spec, channels)
    if asked is None and len(set(sizes)) == 1 and max(sizes[0]) <= _LARGE:
        asked = sizes[0]
    elif asked is None:
        side = min(_SIDE, median_low(min(s) for s in sizes))
        asked = side, side
        low, high = (f"{h}x{w}" for h, w in (min(sizes, key=prod), max(sizes, key=prod)))
        log(f"images from {low} to {high}: their centres are resized to {side}x{side} (choose with size)")
    return depth, *asked


@final
class _Decoder:
    """Decodes sources into memory with a few threads: Pillow lets go of the interpreter while it works."""

    def __init__(self, shape: Shape, total: int, workers: int, progress: Progress | None) -> None:
        self._shape, self._total, self._progress = shape, total, progress
        self._workers = workers or min(8, os.cpu_count() or 1)
        self._done = 0
        self.bad: list[str] = []

    def _some(self, source: Source, rows: range, out: np.ndarray) -> dict[int, str]:
        bad = {}
        for i in rows:
            picture = decode(source, i, self._shape)
            if isinstance(picture, np.ndarray):
                out[i] = picture
            else:
                bad[i] = picture
        return bad

    def __call__(self, part: _Part, spec: str) -> _Part:
        """The part with its pixels and without what cannot be read."""
        source = part.source
        out = np.zeros((len(source), *self._shape), dtype=np.uint8)
        bad: dict[int, str] = {}
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        try:
            chunks = [range(i, min(i + _CHUNK, len(source))) for i in range(0, len(source), _CHUNK)]
            jobs = {pool.submit(self._some, source, chunk, out): len(chunk) for chunk in chunks}
            for job in as_completed(jobs):
                bad.update(job.result())
                self._done += jobs[job]
                if self._progress is not None:
                    self._progress(self._done, self._total)
        finally:
            pool.shutdown(cancel_futures=True)
        self.bad += [f"{source.name(i)} ({reason})" for i, reason in sorted(bad.items())]
        if len(bad) == len(source):
            raise UserError(f"none of the images of '{spec}' can be read ({self.bad[-1]})")
        rows = torch.tensor([i for i in range(len(source)) if i not in bad], dtype=torch.int64)
        return _Part(source, rows, None if part.labels is None else part.labels[rows], torch.from_numpy(out))

    def tell(self, log: Log) -> None:
        """Name what was left out."""
        if self.bad:
            more = f" and {len(self.bad) - 10} more" if len(self.bad) > 10 else ""
            names = ", ".join(self.bad[:10])
            log(f"left out {len(self.bad)} of {self._total} images that cannot be read: {names}{more}")


def _hold_out(n: int, share: float, seed: int, log: Log) -> tuple[Tensor, Tensor]:
    """Cut ``0 .. n-1`` in two, each in ascending order: what is learned from and what is held out."""
    if n < 2:
        log("one image only: it is both learned from and held out")
        return torch.arange(n), torch.arange(n)
    count = min(max(1, round(share * n)), n // 2, _HELD)
    held = torch.zeros(n, dtype=torch.bool)
    held[torch.from_numpy(permutation(n, seed, _HOLD_OUT)[:count].copy())] = True
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


def _digest(parts: Sequence[_Part], shape: Shape) -> str:
    """Of labels and pixels; of the names and sizes of the files where the pixels are not at hand."""
    sha = hashlib.sha256(repr(shape).encode())
    for part in parts:
        sha.update(repr((part.source.class_names, len(part.rows))).encode())
        if part.labels is not None:
            sha.update(part.labels.numpy().astype("<f4" if part.labels.is_floating_point() else "<i8").tobytes())
        if part.pixels is not None:
            for rows in part.rows.split(_LOOK):
                sha.update(part.pixels[rows].numpy().tobytes())
            continue
        for i in range(len(part.source)):
            try:
                size = part.source.size(i)
            except OSError:
                size = -1
            sha.update(f"{part.source.name(i)}\0{size}\n".encode())
    return sha.hexdigest()[:16]


def load(
    spec: str,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    holdout: float = 0.05,
    seed: int = 0,
    memory_limit: int = 4 << 30,
    workers: int = 0,
    attributes: bool = False,
    log: Log = default_log,
    progress: Progress | None = None,
) -> Data:
    """Open a set and bring its pictures to one shape.

    Held out is the set's own test split, else its validation split, else ``holdout`` of it, chosen by
    ``seed``; the latter also where a split is named.

    Args:
        spec: see ``sources``.
        size: side, or height and width; left out, that of the pictures if they agree, else at most 64.
        channels: 1 grey, 3 colour, 2 and 4 with alpha; left out, 1 if all is grey, else 3 (or an array's).
        holdout: share to hold out, between 0 and 1; at least one picture, at most half, at most 10,000.
        seed: picks what is held out.
        memory_limit: bytes of pixels that are kept in memory; a larger set is decoded as it is used.
        workers: threads that decode; 0 for as many as there are cores, up to 8.
        attributes: take the numbers of a table beside the images in place of the classes.
        log: takes the lines that say what was chosen and what was left out.
        progress: called as pictures are decoded into memory.

    Raises:
        UserError: the data cannot be had, none can be read, or they cannot be given the shape.
    """
    if not 0 < holdout < 1:
        raise UserError(f"the share held out is {holdout:g}; give one between 0 and 1, such as 0.05")
    sources, words = _choose(spec, log)
    if len(sources[0]) == 0:
        raise UserError(f"'{spec}' holds no images")
    shape = _shape(sources, spec, size, channels, log)
    told = _attributes if attributes else _labels
    parts = [_Part(source, torch.arange(len(source)), told(source)) for source in sources]
    if attributes and any(part.labels is None for part in parts):
        raise UserError(
            f"'{spec}' has no attributes of every image: lay a labels.csv with a column of file names and columns of "
            "numbers beside the images"
        )
    if sources[0].class_names is not None and parts[0].labels is None:
        log("some images have no label, so the labels are left out")
    total = sum(len(source) for source in sources)
    decoder = _Decoder(shape, total, workers, progress)
    in_memory = total * prod(shape) <= memory_limit
    if in_memory:
        parts = [decoder(part, spec) for part in parts]
        decoder.tell(log)
    if len(parts) == 2:
        train, held_out = (part.images(torch.arange(len(part.rows)), shape, log) for part in parts)
    else:
        ours, theirs = _hold_out(len(parts[0].rows), holdout, seed, log)
        train, held_out = parts[0].images(ours, shape, log), parts[0].images(theirs, shape, log)
        words = f"by seed {seed}"
    grade = {1: "grey", 3: "colour"}.get(shape[0], f"{shape[0]} channels")
    where = "in memory" if in_memory else "decoded as they are used"
    log(f"{len(train)} images of {shape[1]}x{shape[2]}, {grade}; {len(held_out)} held out ({words}); {where}")
    labels = None if parts[0].labels is None or attributes else sources[0].class_names
    described = _described(sources[0], train.labels) if attributes and train.labels is not None else None
    return Data(train, held_out, labels, shape, _digest(parts, shape), len(decoder.bad), described)
