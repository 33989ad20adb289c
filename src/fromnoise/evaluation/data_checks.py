"""What is wrong with a set of images, seen before a model learns it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.data import Data, Images, Source, shuffled_indices
from fromnoise.data.dataset import open_image
from fromnoise.data.decoding import display_size
from fromnoise.evaluation.features.extractors import Pixels
from fromnoise.evaluation.findings import Finding
from fromnoise.evaluation.metrics.frechet import share
from fromnoise.evaluation.metrics.nearest import Nearest

_LOOK = 2000  # images whose pixels are looked at
_QUERIES = 300  # images whose doubles are looked for
_AMONG = 20_000  # images among which they are
_SIZES = 500  # pictures whose size is looked at
_DOUBLE = 0.1  # of the distance to the next ones: nearer is the same picture
_FEW = 500  # images that a network learns by heart
_RATE = 0.02  # of faulty images that is spoken of


@dataclass(frozen=True)
class Examined:
    """A set, raw and as a network will see it."""

    source: Source
    data: Data


def of_data(examined: Examined) -> Iterator[Finding]:
    """Faults of a set."""
    data = examined.data
    images = _some(data.train, _LOOK)
    yield from _range(images)
    yield from _blank(images)
    yield from _few(data)
    yield from _unreadable(data)
    yield from _sizes(examined)
    yield from _classes(data)
    yield from _doubles(data)


def _some(images: Images, count: int) -> Tensor:
    return images.get(shuffled_indices(len(images), 0, range(min(count, len(images)))))


def _range(images: Tensor) -> Iterator[Finding]:
    low, high = int(images.min()), int(images.max())
    if high - low < 64:
        yield Finding(
            "range",
            f"pixels lie between {low} and {high} of 0 to 255",
            "scale them to bytes, or save floats in [0, 1] or [-1, 1] as floats",
        )


def _blank(images: Tensor) -> Iterator[Finding]:
    flat = images.flatten(1)
    blank = share(flat.amax(1) == flat.amin(1)).value
    if _RATE < blank < 1:
        yield Finding("blank", f"{blank:.1%} of the images are of one colour", "take them out")


def _few(data: Data) -> Iterator[Finding]:
    if len(data.train) < _FEW:
        yield Finding(
            "few",
            f"there are only {len(data.train):,} images, which a network learns by heart",
            "take more, set data.flip where mirrored images are as good, raise network.dropout, train for fewer steps, "
            "and look at the copies in fromnoise evaluate",
        )


def _unreadable(data: Data) -> Iterator[Finding]:
    if data.skipped:
        yield Finding("unreadable", f"{data.skipped:,} images cannot be read and are left out", "save them anew")


def _sizes(examined: Examined) -> Iterator[Finding]:
    """Pictures that lose a quarter by the cut, or are enlarged."""
    _, height, width = examined.data.shape
    source = examined.source
    count = min(_SIZES, len(source))
    cut = enlarged = seen = 0
    for i in torch.linspace(0, len(source) - 1, count).long().tolist():
        try:
            with open_image(source, i) as picture:
                h, w = display_size(picture)
        except Exception:  # a broken file makes a decoder raise anything; it is counted as unreadable
            continue
        ratio = (h * width) / (w * height)
        cut += min(ratio, 1 / ratio) < 0.75
        enlarged += h < height or w < width
        seen += 1
    if cut > _RATE * seen:
        yield Finding(
            "sizes",
            f"{cut / seen:.1%} of the images lose more than a quarter when their centres are cut to {height}x{width}",
            "choose data.size [height, width] of their shape, or cut them yourself",
        )
    if enlarged > _RATE * seen:
        yield Finding(
            "sizes",
            f"{enlarged / seen:.1%} of the images are smaller than {height}x{width} and would be enlarged",
            "choose a smaller data.size",
        )


def _classes(data: Data) -> Iterator[Finding]:
    if data.class_names is None or data.train.labels is None:
        return
    counts = torch.bincount(data.train.labels, minlength=len(data.class_names))
    poor = [data.class_names[i] for i in torch.nonzero(counts < counts.double().mean() / 10).flatten().tolist()]
    if poor:
        shown = ", ".join(poor[:6]) + (", ..." if len(poor) > 6 else "")
        yield Finding(
            "classes", f"these classes have less than a tenth of the usual images: {shown}", "add to them, or drop them"
        )


def _doubles(data: Data) -> Iterator[Finding]:
    """Images that are there twice, changed a little or not at all; held-out ones that are learned from."""
    pixels, train = Pixels(data.shape), min(_AMONG, len(data.train))
    queries, held = (pixels.of(_some(images, _QUERIES)) for images in (data.train, data.held_out))
    own, leaked = Nearest(queries, 22), Nearest(held, 21)
    places = shuffled_indices(len(data.train), 0, range(train))
    for first in range(0, train, 1024):
        block = pixels.of(data.train.get(places[first : first + 1024]))
        own.update(block, first)
        leaked.update(block, first)
    own.forget_nearest()  # each query is there itself
    doubles, leaks = (share(n.ratios < _DOUBLE).value for n in (own, leaked))
    if doubles > _RATE:
        yield Finding(
            "duplicates",
            f"{doubles:.1%} of the images are there twice or nearly so",
            "take the doubles out: they are learned by heart first",
        )
    elif leaks > _RATE:
        yield Finding(
            "leak",
            f"{leaks:.1%} of the held-out images are among those learned from",
            "take them out: what is measured on them says nothing",
        )
