"""The shape to which the images of a data set are brought."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from statistics import median_low

import numpy as np

from fromnoise.data.dataset import Shape, open_image
from fromnoise.data.decoding import channels_needed, decode_error, display_size
from fromnoise.data.source import Log, Source
from fromnoise.utils.errors import UserError

_EXAMINED = 1024  # images of each source that are opened to choose size and channels
_DEFAULT_SIDE = 64  # the largest side chosen for images of different sizes, or too large to train on as they are
_MAX_KEPT_SIDE = 256  # the largest side that images of one size keep
_MAX_SIDE = 16_384  # the largest side that can be requested


def choose_shape(
    sources: Sequence[Source], title: str, size: int | tuple[int, int] | None, channels: int | None, log: Log
) -> Shape:
    """Choose channels, height and width.

    Args:
        sources: of the data set.
        title: the data set in messages.
        size: requested side, or height and width. If omitted, that of the images if they agree and are at most 256
            pixels, otherwise a square of the median shorter side, at most 64.
        channels: requested; if omitted, 1 if all images are grey, otherwise 3 (or as many as an array has).
        log: takes a line if the images will be resized to a size that was not requested.

    Raises:
        UserError: size or channels are out of range, or no image can be read.
    """
    chosen = (size, size) if isinstance(size, int) else size
    if chosen is not None and not 1 <= min(chosen) <= max(chosen) <= _MAX_SIDE:
        raise UserError(f"images cannot be {chosen[0]}x{chosen[1]} pixels; give a side from 1 to {_MAX_SIDE}")
    if channels is not None and channels < 1:
        raise UserError(f"images cannot have {channels} channels; give 1 for grey or 3 for RGB")
    sizes, needed = _examine(sources, title, channels)
    if chosen is None and len(set(sizes)) == 1 and max(sizes[0]) <= _MAX_KEPT_SIDE:
        chosen = sizes[0]
    elif chosen is None:
        side = min(_DEFAULT_SIDE, median_low(min(s) for s in sizes))
        chosen = side, side
        low, high = (f"{h}x{w}" for h, w in (min(sizes, key=prod), max(sizes, key=prod)))
        log(f"images from {low} to {high}: cropped to the centre and resized to {side}x{side} (size sets the side)")
    return needed, *chosen


def _examine(sources: Sequence[Source], title: str, channels: int | None) -> tuple[list[tuple[int, int]], int]:
    """Sizes of a sample of images spread evenly over the sources, and the channels that they need."""
    sizes: list[tuple[int, int]] = []
    needed, first_error = channels or 0, ""
    for source in sources:
        examined = np.unique(np.linspace(0, len(source) - 1, min(len(source), _EXAMINED)).astype(int)).tolist()
        source.prefetch(examined)
        for i in examined:
            try:
                with open_image(source, i) as image:
                    size = display_size(image)
                    if channels is None and needed < 2:
                        needed = max(needed, channels_needed(image))
                sizes.append(size)
            except Exception as error:  # a damaged file can make a decoder raise anything
                first_error = first_error or f"{source.name(i)}: {decode_error(error)}"
    if not sizes:
        raise UserError(f"none of the images of {title} can be read ({first_error}); check the files")
    return sizes, needed
