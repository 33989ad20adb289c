"""Shards that the tests write with Python's own tarfile, and what reads them back."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fromnoise.data import BatchStream, Data, Images


def png(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes | tarfile.TarInfo], kind: int = tarfile.USTAR_FORMAT) -> Path:
    """A .tar file of files, or of headers without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def random_images(n: int, height: int = 5, width: int = 5, channels: int = 1, seed: int = 0) -> np.ndarray:
    """uint8 (N, H, W), or (N, H, W, C) for several channels."""
    shape = (n, height, width) if channels == 1 else (n, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_shards(folder: Path, images: np.ndarray, labels: list[int] | None = None, each: int = 4) -> list[Path]:
    """Shards ``part-000000.tar``, ... of a few images each."""
    paths = []
    for k, first in enumerate(range(0, len(images), each)):
        members: dict[str, bytes] = {}
        for i in range(first, min(first + each, len(images))):
            members[f"{i:04d}.png"] = png(images[i])
            if labels is not None:
                members[f"{i:04d}.cls"] = str(labels[i]).encode()
        paths.append(write_tar(folder / f"part-{k:06d}.tar", members))
    return paths


def all_pixels(images: Images) -> torch.Tensor:
    """All images in one tensor."""
    return images.get(torch.arange(len(images)))


def same_data(a: Data, b: Data) -> bool:
    """Whether images, labels and their order are equal."""
    pairs = ((a.train, b.train), (a.held_out, b.held_out))
    return a.class_names == b.class_names and all(
        torch.equal(all_pixels(x), all_pixels(y))
        and (x.labels is None) == (y.labels is None)
        and (x.labels is None or y.labels is None or torch.equal(x.labels, y.labels))
        for x, y in pairs
    )


def first_images(data: Data, steps: int, batch: int, rank: int = 0, world: int = 1, start: int = 0) -> torch.Tensor:
    """The images of the first steps of training."""
    batches = BatchStream(data.train, 3, True, workers=2).iterate(start, batch, rank, world)
    found = [b.pixels for b in itertools.islice(batches, steps)]
    batches.close()
    return torch.stack(found)
