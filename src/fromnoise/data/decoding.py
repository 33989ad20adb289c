"""One picture: from whatever its file holds to uint8 (C, H, W) of the wanted size."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from fromnoise.utils.errors import UserError

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"}
_ORIENTATION = 0x0112  # the EXIF tag
_SLACK = 1e-3  # how far floats may overshoot their range, in parts of it


def scale_of(kind: str, low: float, high: float) -> tuple[float, float, str] | None:
    """How numbers that are not bytes are meant, by the range that they span.

    Args:
        kind: numpy's letter for the dtype: ``b`` bool, ``u`` and ``i`` integers, ``f`` floats.
        low: the least number.
        high: the largest number.

    Returns:
        ``(a, b, words)`` with ``byte = a x + b`` and the range in words; None if no usual range holds them.
    """
    if kind == "b":
        return 255.0, 0.0, "false and true"
    if kind == "f":
        if low >= -_SLACK and high <= 1 + _SLACK:
            return 255.0, 0.0, "[0, 1]"
        if low >= -1 - _SLACK and high <= 1 + _SLACK:
            return 127.5, 127.5, "[-1, 1]"
    if low >= 0 and high <= 255:
        return 1.0, 0.0, "0..255"
    if kind in "ui" and low >= 0 and high <= 65535:
        return 1 / 257, 0.0, "0..65535"
    return None


def to_bytes(array: np.ndarray, a: float, b: float) -> np.ndarray:
    """``round(a x + b)`` as uint8, what lies outside clamped."""
    return np.rint(np.clip(array.astype(np.float64) * a + b, 0, 255)).astype(np.uint8)


def _deep(picture: Image.Image) -> Image.Image:
    """A picture of more than 8 bits a pixel, as mode L."""
    array = np.asarray(picture)
    if picture.mode != "F":
        # Pillow keeps 16 bits in I as well as in I;16: 0..65535 in both
        return Image.fromarray(to_bytes(array, 1 / 257, 0.0))
    low, high = float(np.min(array)), float(np.max(array))
    scale = scale_of("f", low, high)
    if scale is None:
        raise ValueError(f"its floats span {low:.4g} to {high:.4g}, neither [0, 1] nor [-1, 1] nor [0, 255]")
    return Image.fromarray(to_bytes(array, *scale[:2]))


def _with_mode(picture: Image.Image, channels: int) -> Image.Image:
    """To L, LA, RGB or RGBA; without an alpha channel, what is transparent becomes white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _deep(picture)
    if channels in (1, 3) and picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode in ("P", "PA", "CMYK") and channels <= 2:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    return picture.convert(_MODES[channels])


def _rectangle(height: int, width: int, to_height: int, to_width: int) -> tuple[int, int, int, int]:
    """The largest centred rectangle with the target's aspect: left, top, right, bottom."""
    wide = min(width, max(1, round(height * to_width / to_height)))
    high = min(height, max(1, round(width * to_height / to_width)))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _fit(picture: Image.Image, height: int, width: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    picture = picture.crop(_rectangle(picture.height, picture.width, height, width))
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def prepare(picture: Image.Image | np.ndarray, height: int, width: int, channels: int) -> np.ndarray:
    """Decode, turn upright, cut the largest centred rectangle of the target's aspect, resize.

    The resize is Pillow's Lanczos: it widens its kernel when it shrinks a picture, so nothing aliases (to
    which Frechet distances are sensitive: Parmar et al. 2022, "On aliased resizing"), and is sharper than
    a box. No cheaper step comes before it: decoding costs more than the filter. A picture that fits
    already keeps its pixels.

    Args:
        picture: a Pillow image of any mode, or uint8 (H, W) or (H, W, C).
        height: pixels.
        width: pixels.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; any other number only for an array that has it.

    Returns:
        uint8 (channels, height, width), contiguous.

    Raises:
        UserError: an array's channels have no known conversion.
        Exception: anything that a decoder raises when a file is broken.
    """
    if isinstance(picture, np.ndarray):
        depth = channels_of(picture)
        if depth == channels and picture.shape[:2] == (height, width):
            return picture.reshape(height, width, channels).transpose(2, 0, 1).copy()
        if depth != channels and not {depth, channels} <= _MODES.keys():
            raise UserError(f"images of {depth} channels cannot be given {channels}; leave the channels to the data")
        if depth not in _MODES:
            planes = [Image.fromarray(plane) for plane in picture.transpose(2, 0, 1)]
            return np.stack([np.asarray(_fit(plane, height, width)) for plane in planes])
        picture = Image.fromarray(picture[..., 0] if picture.ndim == 3 and depth == 1 else picture)
    elif channels not in _MODES:
        raise UserError(f"pictures cannot have {channels} channels: 1 is grey, 2 grey and alpha, 3 RGB, 4 RGBA")
    picture = _fit(_with_mode(ImageOps.exif_transpose(picture), channels), height, width)
    return np.array(picture).reshape(height, width, channels).transpose(2, 0, 1).copy()


def channels_of(array: np.ndarray) -> int:
    """C of (H, W) or (H, W, C)."""
    return 1 if array.ndim == 2 else array.shape[2]


def display_size(picture: Image.Image | np.ndarray) -> tuple[int, int]:
    """Height and width as the picture is meant to be seen, from the header alone."""
    if isinstance(picture, np.ndarray):
        return picture.shape[0], picture.shape[1]
    height, width = picture.height, picture.width
    # Pillow turns TIFF by itself, and would decode a whole PNG to look for a tag behind the pixels
    tagged = picture.format != "TIFF" and (picture.format != "PNG" or "exif" in picture.info)
    tags = picture.getexif() if tagged else {}
    return (width, height) if tags.get(_ORIENTATION) in (5, 6, 7, 8) else (height, width)


def channels_needed(picture: Image.Image | np.ndarray) -> int:
    """Channels that the picture needs: 1 if it is grey, however stored; an array keeps 2, 4 and more."""
    if isinstance(picture, np.ndarray):
        depth = channels_of(picture)
        if depth != 3:
            return depth
        array = picture
    elif picture.mode in _GREY:
        return 1
    else:
        array = np.asarray(_with_mode(picture, 3))
    return 1 if bool((array == array[..., :1]).all()) else 3
