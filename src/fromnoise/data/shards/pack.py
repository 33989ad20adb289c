"""Packs a data set into shards, in its own order; an interrupted packing goes on where it was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from itertools import count as count_from
from pathlib import Path
from typing import final

import numpy as np

from fromnoise.data.dataset import Shape
from fromnoise.data.decoding import Resize
from fromnoise.data.image_shape import choose_shape
from fromnoise.data.shards.encode import EncodedImage, ImageEncoding, encode_image, encoded_in_order
from fromnoise.data.shards.manifest import INDEX_SUFFIX, LIST_NAME, Manifest, Shard, parse_manifest, problem_list
from fromnoise.data.shards.shard_writer import ShardWriter, write_shard
from fromnoise.data.source import Log, Source, Splits
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import TEMPORARY, check_folder, write_atomic
from fromnoise.utils.locks import LOCK, lock_folder, unlock_folder
from fromnoise.utils.reading import limits, read_bytes

_NAMED = 10  # images left out whose names are kept

OnPacked = Callable[[int, int], object]
"""Called with the number of packed images, and of all images."""


@dataclass(frozen=True)
class PackSettings:
    """How a data set is packed.

    Attributes:
        size: (H, W) to which images are cropped and resized; None keeps their sizes, or with ``channels`` is as of
            ``load``.
        channels: of the images; None keeps them, or with ``size`` is as of ``load``.
        resize: filter.
        encoding: of the images.
        shard_bytes: of a shard; it ends with the image that reaches them.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    resize: Resize = "lanczos"
    encoding: ImageEncoding = "auto"
    shard_bytes: int = 256 << 20


def pack(
    splits: Splits, out: Path, settings: PackSettings, log: Log, workers: int = 0, on_packed: OnPacked | None = None
) -> Manifest:
    """Write the images of a data set into shards, with their labels and attributes.

    Args:
        splits: the data set; the names of the shards begin with those of its splits.
        out: folder of the shards; empty, or of a packing of the same data with the same settings, of which missing
            shards are written.
        settings: size, encoding and shards.
        log: takes a line if images are left out.
        workers: threads that encode; 0 for one per core, at most 8.
        on_packed: called after each image.

    Returns:
        The list of the shards.

    Raises:
        UserError: the folder holds something else, no image can be read, or the disk is full.
    """
    check_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        try:
            lock = lock_folder(out)
        except BlockingIOError:
            raise UserError(f"another process is packing into {out}: wait for it, or choose another --out") from None
        try:
            return _Packing(splits, out, settings, log, workers, on_packed).run()
        finally:
            unlock_folder(out, lock, remove=True)
    except OSError as error:
        raise UserError(
            f"cannot write in {out}: {error.strerror or error}; make room and run the same command again"
        ) from None


def _identity(splits: Splits) -> str:
    """A digest that changes when the data do: names and sizes of the files, and the classes."""
    sha = hashlib.sha256()
    for split, source in splits.items():
        sha.update(repr((split, len(source), source.class_names, source.attribute_names)).encode())
        for block in source.identity():
            sha.update(block)
    return sha.hexdigest()[:16]


@final
class _Packing:
    """A packing: the list of the shards written so far, and what is to be written."""

    def __init__(
        self, splits: Splits, out: Path, settings: PackSettings, log: Log, workers: int, on_packed: OnPacked | None
    ) -> None:
        self._splits, self._out, self._settings, self._log, self._on_packed = splits, out, settings, log, on_packed
        self._workers = workers or min(8, os.cpu_count() or 1)
        self._total, self._done = sum(len(source) for source in splits.values()), 0
        if self._total == 0:
            raise UserError("the data hold no images: there is nothing to pack")
        chosen = {**asdict(settings), "size": None if settings.size is None else list(settings.size)}
        first = next(iter(splits.values()))
        self._manifest = self._begin(Manifest((), first.class_names, False, {**chosen, "source": _identity(splits)}))
        self._left_out = dict.fromkeys(self._manifest.left_out)
        self._shape: Shape | None = None
        if settings.size is not None or settings.channels is not None:
            sources = [source for source in splits.values() if len(source)]
            self._shape = choose_shape(sources, "the data", settings.size, settings.channels, log)

    def _begin(self, new: Manifest) -> Manifest:
        """The list of a former packing of the same data, or a new one.

        Raises:
            UserError: the folder holds something else.
        """
        path = self._out / LIST_NAME
        for temporary in self._out.glob(TEMPORARY):
            temporary.unlink(missing_ok=True)
        if not path.exists():
            other = next((f.name for f in self._out.iterdir() if f.name != LOCK), None)
            # a shard may have been written before the list was
            if other is not None and not other.startswith(tuple(f"{_prefix(split)}-" for split in self._splits)):
                raise UserError(f"{self._out} holds other files ({other}): choose an empty folder for --out")
            return new
        found = parse_manifest(read_bytes(path, limits().text_bytes), path)
        changed = [key for key, value in new.settings.items() if found.settings.get(key) != value]
        if changed or found.class_names != new.class_names:
            what = "other data" if not changed or "source" in changed else f"another {changed[0].replace('_', ' ')}"
            raise UserError(f"{self._out} holds shards of {what}: choose another --out")
        return found

    def run(self) -> Manifest:
        """Write the shards that are missing, and the list after each of them."""
        for split, source in self._splits.items():
            self._pack_split(split, source)
        if not any(shard.images for shard in self._manifest.shards):
            raise UserError(f"no image can be read: {problem_list(list(self._left_out))}")
        if self._left_out:
            more = " and others" if len(self._left_out) > _NAMED else ""
            names = ", ".join(list(self._left_out)[:_NAMED])
            self._log(f"left out {len(self._left_out)} images that cannot be read: {names}{more}")
        self._manifest = replace(self._manifest, complete=True)
        self._write_list()
        return self._manifest

    def _pack_split(self, split: str, source: Source) -> None:
        images: Generator[EncodedImage] | None = None
        codes = source.label_codes() if source.class_names is not None else None
        known, row = {shard.name: shard for shard in self._manifest.shards}, 0
        for number in count_from():
            if row >= len(source):
                break
            name = f"{_prefix(split)}-{number:06d}.tar"
            shard = known.get(name)
            if shard is not None and self._is_whole(shard):
                images = None  # reading goes on after the shard
                self._done += shard.stop - row
                self._tick()
            else:
                images = images or self._images(source, row)
                end = len(source) if shard is None else shard.stop

                def fill(writer: ShardWriter, images: Generator[EncodedImage] = images, end: int = end) -> int:
                    return self._fill(writer, source, codes, images, end)

                shard = write_shard(self._out / name, fill, "" if split == "all" else split, row)
                self._keep(shard)
            row = shard.stop
        if images is not None:
            images.close()

    def _images(self, source: Source, row: int) -> Generator[EncodedImage]:
        settings = self._settings
        return encoded_in_order(
            lambda i: encode_image(source, i, settings.encoding, self._shape, settings.resize),
            row,
            len(source),
            self._workers,
        )

    def _fill(
        self,
        writer: ShardWriter,
        source: Source,
        codes: np.ndarray | None,
        images: Generator[EncodedImage],
        end: int,
    ) -> int:
        """Add images to a shard until it is full, or until ``end``; returns the number after the last one."""
        stop = end
        for image in images:
            row = image.row
            if image.error:
                self._left_out[f"{source.name(row)} ({image.error})"] = None
            else:
                label = None if codes is None or codes[row] < 0 else int(codes[row])
                values = source.attribute_values(row) if source.attribute_names else None
                attributes = None if values is None else dict(zip(source.attribute_names, values, strict=True))
                writer.add(f"{row:09d}", image.suffix, image.content, label, attributes)
            self._done += 1
            self._tick()
            if row + 1 == end or writer.size >= self._settings.shard_bytes:
                stop = row + 1
                break
        return stop

    def _tick(self) -> None:
        if self._on_packed is not None:
            self._on_packed(self._done, self._total)

    def _is_whole(self, shard: Shard) -> bool:
        """Whether a shard and its index are there."""
        path = self._out / shard.name
        beside = path.with_name(path.name + INDEX_SUFFIX)
        return path.is_file() and path.stat().st_size == shard.size and beside.is_file()

    def _keep(self, shard: Shard) -> None:
        """Add a shard to the list, or replace its entry."""
        shards = {s.name: s for s in self._manifest.shards} | {shard.name: shard}
        order = {_prefix(split): i for i, split in enumerate(self._splits)}
        ordered = sorted(shards.values(), key=lambda s: (order[s.name.rpartition("-")[0]], s.first))
        self._manifest = replace(
            self._manifest, shards=tuple(ordered), complete=False, left_out=tuple(self._left_out)[:_NAMED]
        )
        self._write_list()

    def _write_list(self) -> None:
        write_atomic(self._out / LIST_NAME, self._manifest.to_bytes())


def _prefix(split: str) -> str:
    """How the names of the shards of a split begin."""
    return "shard" if split == "all" else split
