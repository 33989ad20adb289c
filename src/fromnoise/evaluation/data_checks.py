"""Checks of a data set before a model is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from fromnoise.data import Data, Images, Source, shuffled_indices
from fromnoise.data.dataset import open_image
from fromnoise.data.decoding import display_size
from fromnoise.evaluation.estimate import proportion
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.findings import Finding
from fromnoise.evaluation.metrics.nearest import NearestNeighbours

_PIXEL_IMAGES = 2000  # images in the checks of pixel values
_QUERIES = 300  # images in the search for duplicates
_SEARCHED = 20_000  # training images among which duplicates are searched
_SIZED = 500  # images in the check of sizes
_DUPLICATE_RATIO = 0.1  # of the distance to the next neighbours: below it is a duplicate
_MIN_SURPLUS = 0.001  # of exact duplicates, below which nothing is reported
_FEW = 500  # training images, below which memorization is likely
_MIN_RATE = 0.02  # of faulty images, below which nothing is reported


@dataclass(frozen=True)
class CheckedData:
    """A data set as its files are, and as a network will see it."""

    source: Source
    data: Data


def check_data(checked: CheckedData) -> Iterator[Finding]:
    """Problems of a data set."""
    data = checked.data
    images = _random_images(data.train, _PIXEL_IMAGES)
    yield from _range(images)
    yield from _blank(images)
    yield from _few(data)
    yield from _unreadable(data)
    yield from _sizes(checked)
    yield from _classes(data)
    yield from _duplicates(data)


def _random_images(images: Images, count: int) -> Tensor:
    return images.get(shuffled_indices(len(images), 0, range(min(count, len(images)))))


def _range(images: Tensor) -> Iterator[Finding]:
    low, high = int(images.min()), int(images.max())
    if high - low < 64:
        yield Finding(
            "range",
            f"pixel values range from {low} to {high}, not over 0 to 255",
            "scale them to 0-255, or save them as floats in [0, 1] or [-1, 1]",
        )


def _blank(images: Tensor) -> Iterator[Finding]:
    flat = images.flatten(1)
    blank = proportion(flat.amax(1) == flat.amin(1)).value
    if _MIN_RATE < blank < 1:
        yield Finding("blank", f"{blank:.1%} of the images have a single colour", "remove them")


def _few(data: Data) -> Iterator[Finding]:
    if len(data.train) < _FEW:
        yield Finding(
            "few",
            "there is only 1 training image, which a network memorizes"
            if len(data.train) == 1
            else f"there are only {len(data.train):,} training images, which a network can memorize",
            "add images, set data.flip if mirrored images are valid, raise network.dropout, train for fewer steps, "
            "and look at the near copies in fromnoise evaluate",
        )


def _unreadable(data: Data) -> Iterator[Finding]:
    if data.skipped:
        yield Finding("unreadable", f"{data.skipped:,} images cannot be read and are skipped", "save them again")


def _sizes(checked: CheckedData) -> Iterator[Finding]:
    """Images that lose over a quarter by the centre crop, or are enlarged."""
    _, height, width = checked.data.shape
    source = checked.source
    cropped = enlarged = opened = 0
    for i in torch.linspace(0, len(source) - 1, min(_SIZED, len(source))).long().tolist():
        try:
            with open_image(source, i) as image:
                h, w = display_size(image)
        except Exception:  # a decoder may raise anything for a broken file, which is counted as unreadable
            continue
        ratio = (h * width) / (w * height)
        cropped += min(ratio, 1 / ratio) < 0.75
        enlarged += h < height or w < width
        opened += 1
    if cropped > _MIN_RATE * opened:
        yield Finding(
            "sizes",
            f"{cropped / opened:.1%} of the images lose over a quarter of their area in the centre crop to "
            f"{height}x{width}",
            "set data.size to [height, width] of their shape, or crop them yourself",
        )
    if enlarged > _MIN_RATE * opened:
        yield Finding(
            "sizes",
            f"{enlarged / opened:.1%} of the images are smaller than {height}x{width} and are enlarged",
            "set a smaller data.size",
        )


def _classes(data: Data) -> Iterator[Finding]:
    if data.class_names is None or data.train.labels is None:
        return
    counts = torch.bincount(data.train.labels, minlength=len(data.class_names))
    rare = [data.class_names[i] for i in torch.nonzero(counts < counts.double().mean() / 10).flatten().tolist()]
    if rare:
        listed = ", ".join(rare[:6]) + (", ..." if len(rare) > 6 else "")
        yield Finding(
            "classes",
            f"these classes have less than a tenth of the mean number of images: {listed}",
            "add images to them, or remove them",
        )


def _duplicates(data: Data) -> Iterator[Finding]:
    """Exact and near duplicates among the training images, and held-out images among the training images."""
    if len(data.train) < 3:  # a ratio needs an image's nearest and a further one
        return
    pixels, train = PixelFeatures(data.shape), min(_SEARCHED, len(data.train))
    queries, held_out = (pixels.features(_random_images(images, _QUERIES)) for images in (data.train, data.held_out))
    within, leaked = NearestNeighbours(queries, 22), NearestNeighbours(held_out, 21)
    indices = shuffled_indices(len(data.train), 0, range(train))
    occurrences: Counter[bytes] = Counter()
    for first in range(0, train, 1024):
        images = data.train.get(indices[first : first + 1024])
        occurrences.update(blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images)
        block = pixels.features(images)
        within.add_reference(block, first)
        leaked.add_reference(block, first)
    within.drop_nearest()  # the query itself
    duplicates, leaks = (proportion(n.distance_ratios < _DUPLICATE_RATIO).value for n in (within, leaked))
    repeated = [n for n in occurrences.values() if n > 1]
    surplus = sum(repeated) - len(repeated)
    remedy = "remove the duplicates: they are memorized first, and can be in training and held-out images"
    if duplicates > _MIN_RATE:
        yield Finding("duplicates", f"{duplicates:.1%} of the images have a duplicate or a near duplicate", remedy)
    elif surplus > _MIN_SURPLUS * train:
        yield Finding(
            "duplicates",
            f"{sum(repeated):,} of {train:,} training images have exact duplicates: {surplus:,} can be removed",
            remedy,
        )
    elif leaks > _MIN_RATE:
        yield Finding(
            "leak",
            f"{leaks:.1%} of the held-out images are also training images",
            "remove them: measurements on them are biased",
        )
