"""Images and masks from the user's files, checked against the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fromnoise.data import prepare
from fromnoise.data.decoding import channels_needed, display_size, open_encoded
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import decoding


def load_image(path: Path, channels: int) -> Tensor:
    """Read an image at its own size.

    Args:
        path: a file that Pillow can read.
        channels: of the model; a grayscale image is converted for a color model.

    Returns:
        uint8 (1, C, H, W).

    Raises:
        UserError: the file cannot be read, or the image has channels that the model does not have.
    """
    image = _open(path)
    height, width = display_size(image)
    own = 4 if image.has_transparency_data else channels_needed(image)
    if own > channels:
        names = {1: "grayscale", 3: "color", 4: "transparency"}
        raise UserError(
            f"{path} has {own} channels ({names[own]}) and this model has {channels}: "
            f"use {'a grayscale image' if channels == 1 else f'an image with at most {channels} channels'}"
        )
    return torch.from_numpy(prepare(image, height, width, channels))[None]


def load_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """Read a mask for inpainting.

    Args:
        path: an image file, light where the image is painted and dark where it is kept.
        size: height and width that it must have.

    Returns:
        bool (H, W), true where the image is kept.

    Raises:
        UserError: the file cannot be read, has another size, or keeps all or no pixels.
    """
    image = _open(path)
    own = display_size(image)
    if own != size:
        raise UserError(
            f"the mask {path} has {own[0]}x{own[1]} pixels and the image {size[0]}x{size[1]}: use one size for both"
        )
    known = torch.from_numpy(prepare(image, *own, 1)[0] < np.uint8(128))
    if bool(known.all()):
        raise UserError(f"the mask {path} keeps every pixel: make it white where to paint")
    if not bool(known.any()):
        raise UserError(f"the mask {path} keeps no pixel: use fromnoise sample for whole images")
    return known


def place_on_canvas(pixels: Tensor, size: tuple[int, int], at: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    """Place an image on a larger canvas.

    Args:
        pixels: uint8 (1, C, H, W).
        size: height and width of the canvas.
        at: row and column of the image's upper left corner; None centers the image.

    Returns:
        The canvas, uint8 (1, C, *size), and a mask, bool of that size, true where the image is.

    Raises:
        UserError: the image does not fit on the canvas, or covers it.
    """
    height, width = pixels.shape[-2:]
    top, left = at if at is not None else ((size[0] - height) // 2, (size[1] - width) // 2)
    if min(top, left) < 0 or top + height > size[0] or left + width > size[1]:
        raise UserError(
            f"an image of {height}x{width} at row {top}, column {left} does not fit on a canvas of {size[0]}x{size[1]}:"
            " use a larger --size, or another --at"
        )
    if (height, width) == size:
        raise UserError(f"the image is as large as the canvas, {height}x{width}: use a larger --size")
    canvas = pixels.new_zeros((1, pixels.shape[1], *size))
    known = torch.zeros(size, dtype=torch.bool)
    canvas[..., top : top + height, left : left + width] = pixels
    known[top : top + height, left : left + width] = True
    return canvas, known


def _open(path: Path) -> Image.Image:
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an image: name a file in it")
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path} is empty, not an image: use another file")
    with decoding(path, "an image", "use another file"):
        image = open_encoded(path)
        image.load()
        return image
