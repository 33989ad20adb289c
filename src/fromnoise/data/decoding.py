"""From a decoded or undecoded image of any size and mode to uint8 (C, H, W) of the requested size."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fromnoise.data.value_range import UINT16, infer_value_range
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import MAX_PIXELS, UnreadableFile, check_pixels, check_regular, first_line, limits

_FORMATS = "PNG JPEG MPO BMP DIB GIF TIFF WEBP AVIF JPEG2000 PPM TGA ICO".split()

Resize = Literal["lanczos", "bilinear"]
"""Filter of a resize; both are widened when they shrink an image, so that the result has no aliasing."""
_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"}
_ORIENTATION = 0x0112  # the EXIF tag


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert an image of more than 8 bits a pixel to mode L."""
    array = np.asarray(image)
    if image.mode != "F":
        # Pillow uses mode I for 16 bits as well as I;16: the values are 0..65535 in both
        return Image.fromarray(UINT16.to_uint8(array))
    low, high = float(np.min(array)), float(np.max(array))
    value_range = infer_value_range("f", low, high)
    if value_range is None:
        raise ValueError(f"its floats span {low:.4g} to {high:.4g}, neither [0, 1] nor [-1, 1] nor [0, 255]")
    return Image.fromarray(value_range.to_uint8(array))


def _convert_mode(image: Image.Image, channels: int) -> Image.Image:
    """Convert to L, LA, RGB or RGBA; where the alpha channel is dropped, the background is white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image)
    if channels in (1, 3) and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode in ("P", "PA", "CMYK") and channels <= 2:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.convert(_MODES[channels])


def _center_box(height: int, width: int, to_height: int, to_width: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the largest centred rectangle that has the target's aspect ratio."""
    box_width = min(width, max(1, round(height * to_width / to_height)))
    box_height = min(height, max(1, round(width * to_height / to_width)))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def _crop_and_resize(image: Image.Image, height: int, width: int, resize: Resize) -> Image.Image:
    if image.size == (width, height):
        return image
    image = image.crop(_center_box(image.height, image.width, height, width))
    if image.size == (width, height):
        return image
    return image.resize((width, height), _FILTERS[resize])


def prepare(
    image: Image.Image | np.ndarray, height: int, width: int, channels: int, resize: Resize = "lanczos"
) -> np.ndarray:
    """Decode an image, apply its EXIF orientation, crop the largest centred rectangle and resize it.

    The filters are Pillow's: they are widened when they shrink an image, so the result has no aliasing, to which
    Frechet distances are sensitive (Parmar et al. 2022, "On Aliased Resizing"). Lanczos is the sharper one. An image
    that already has the size keeps its pixels.

    Args:
        image: a Pillow image of any mode, or uint8 of shape (H, W) or (H, W, C).
        height: of the result, in pixels.
        width: of the result, in pixels.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; any other number only for an array that has as many.
        resize: filter.

    Returns:
        uint8 (channels, height, width), contiguous.

    Raises:
        UserError: the channels of an array cannot be converted.
        Exception: anything that a decoder raises when a file is damaged.
    """
    if isinstance(image, np.ndarray):
        own = array_channels(image)
        if own == channels and image.shape[:2] == (height, width):
            return image.reshape(height, width, channels).transpose(2, 0, 1).copy()
        if own != channels and not {own, channels} <= _MODES.keys():
            raise UserError(f"images with {own} channels cannot be converted to {channels}; leave out the channels")
        if own not in _MODES:
            planes = [Image.fromarray(plane) for plane in image.transpose(2, 0, 1)]
            return np.stack([np.asarray(_crop_and_resize(plane, height, width, resize)) for plane in planes])
        image = Image.fromarray(image[..., 0] if image.ndim == 3 and own == 1 else image)
    elif channels not in _MODES:
        raise UserError(f"image files cannot have {channels} channels: use 1 grey, 2 grey and alpha, 3 RGB or 4 RGBA")
    image = _crop_and_resize(_convert_mode(ImageOps.exif_transpose(image), channels), height, width, resize)
    return np.array(image).reshape(height, width, channels).transpose(2, 0, 1).copy()


def array_channels(array: np.ndarray) -> int:
    """Channels of an image of shape (H, W) or (H, W, C)."""
    return 1 if array.ndim == 2 else array.shape[2]


def display_size(image: Image.Image | np.ndarray) -> tuple[int, int]:
    """Height and width after the EXIF orientation is applied, from the header alone."""
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    height, width = image.height, image.width
    # Pillow applies the orientation of TIFF itself, and would decode a whole PNG to find a tag behind the pixels
    tagged = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    try:
        tags = image.getexif() if tagged else {}
    except Exception:  # damaged tags can make Pillow raise anything
        tags = {}
    return (width, height) if tags.get(_ORIENTATION) in (5, 6, 7, 8) else (height, width)


def channels_needed(image: Image.Image | np.ndarray) -> int:
    """Channels that hold the image without loss of colour: 1 if it is grey, even if it is stored as RGB.

    An array keeps 2, 4 and more channels.
    """
    if isinstance(image, np.ndarray):
        own = array_channels(image)
        if own != 3:
            return own
        array = image
    elif image.mode in _GREY_MODES:
        return 1
    else:
        array = np.asarray(_convert_mode(image, 3))
    return 1 if bool((array == array[..., :1]).all()) else 3


@functools.cache
def _decoders() -> tuple[str, ...]:
    """The formats that this Pillow decodes by itself; others, such as EPS, would start programs."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def open_encoded(file: str | Path | BinaryIO) -> Image.Image:
    """Open an encoded image; it is decoded when the pixels are used.

    Args:
        file: path of a regular file, or an open binary file.

    Raises:
        UnreadableFile: the path is not a regular file, or larger than the limit.
        Exception: anything that a decoder raises; a ValueError for an image of too many pixels.
    """
    if isinstance(file, str | Path):
        check_regular(file, limits().image_bytes)
    image = Image.open(file, formats=_decoders())
    try:
        check_pixels(image.height, image.width)
    except ValueError:
        image.close()
        raise
    return image


def decode_error(error: Exception) -> str:
    """Describe in a few words why an image could not be decoded."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, UnreadableFile):
        return error.reason
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels: set {MAX_PIXELS} to read it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
