"""Images of a source as files, in order and ahead of their use."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from fromnoise.data.arrays import channels_last
from fromnoise.data.dataset import Shape, open_image
from fromnoise.data.decoding import Resize, channels_needed, decode_error, display_size, prepare
from fromnoise.data.source import Source
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import UnreadableFile

_TOGETHER = 64  # images that a thread encodes before it returns them

_SMALL = 64 * 64  # pixels up to which an array is as small in a .tar file as a PNG, or not much larger

ImageEncoding = Literal["auto", "png", "npy"]
"""``auto`` keeps files as they are; arrays and resized images become .npy files up to 64x64 pixels, which are read
without decoding, and larger ones PNG."""


@dataclass(frozen=True)
class EncodedImage:
    """An image of a source as a file.

    Attributes:
        row: its number in the source.
        suffix: of the file, such as ``.png``.
        content: of the file.
        error: why it cannot be read; empty if it can.
    """

    row: int
    suffix: str = ""
    content: bytes = b""
    error: str = ""


def encode_image(
    source: Source, row: int, encoding: ImageEncoding, shape: Shape | None, resize: Resize
) -> EncodedImage:
    """Encode an image of a source.

    PNG holds grey and RGB images, and RGBA ones of files; arrays of other channels are .npy files in any encoding.

    Args:
        source: the images.
        row: which.
        encoding: as of ``ImageEncoding``.
        shape: channels, height and width to which it is converted; None keeps those that it has.
        resize: filter.

    Raises:
        UserError: the channels cannot be converted.
    """
    try:
        if encoding == "auto" and shape is None:
            stored = source.encoded(row)
            if stored is not None:
                return EncodedImage(row, *stored)
        with open_image(source, row) as image:
            alpha = shape is None and isinstance(image, Image.Image) and image.has_transparency_data
            channels, height, width = shape or (4 if alpha else channels_needed(image), *display_size(image))
            pixels = prepare(image, height, width, channels, resize)
    except UserError as error:
        if isinstance(error, UnreadableFile):
            return EncodedImage(row, error=decode_error(error))
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        return EncodedImage(row, error=decode_error(error))
    small = encoding == "auto" and height * width <= _SMALL and not alpha
    if encoding == "npy" or small or not (len(pixels) in (1, 3) or alpha):
        return EncodedImage(row, ".npy", _npy(pixels))
    return EncodedImage(row, ".png", _png(pixels))


def _png(pixels: np.ndarray) -> bytes:
    """Pixels (C, H, W) of 1, 3 or 4 channels as the content of a PNG file."""
    buffer = io.BytesIO()
    image = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _npy(pixels: np.ndarray) -> bytes:
    """Pixels (C, H, W) as the content of a .npy file, in the layout that ``read_npy_image`` takes for itself."""
    array = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    if array.ndim == 3 and not channels_last(array.shape):
        array = pixels
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def encoded_in_order(
    encode: Callable[[int], EncodedImage], start: int, stop: int, workers: int
) -> Generator[EncodedImage]:
    """Encode images ``start`` to ``stop - 1`` with several threads, and yield them in order.

    Memory holds a few hundred encoded images at most.

    Args:
        encode: encodes one image; called by several threads.
        start: number of the first image.
        stop: number after the last one.
        workers: threads.
    """

    def encode_rows(first: int) -> list[EncodedImage]:
        return [encode(row) for row in range(first, min(first + _TOGETHER, stop))]

    pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
    ahead: deque[Future[list[EncodedImage]]] = deque()
    try:
        for first in range(start, stop, _TOGETHER):
            ahead.append(pool.submit(encode_rows, first))
            if len(ahead) > 2 * workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
