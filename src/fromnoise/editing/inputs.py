"""Pictures and masks that the user gives, and whether they go with a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fromnoise.data import prepare
from fromnoise.data.decoding import channels_needed, display_size
from fromnoise.utils.errors import UserError


def load_picture(path: Path, channels: int) -> Tensor:
    """A picture as it is, at its own size.

    Args:
        path: of any file that Pillow reads.
        channels: that the model draws; a grey picture can be given to a model of colour, which loses nothing.

    Returns:
        uint8 (1, C, H, W).

    Raises:
        UserError: it cannot be read, or has channels that the model does not draw.
    """
    picture = _opened(path)
    height, width = display_size(picture)
    with_alpha = picture.has_transparency_data
    has = 4 if with_alpha else channels_needed(picture)
    if has > channels:
        names = {1: "grey", 3: "colour", 4: "transparency"}
        raise UserError(
            f"{path} has {names[has]} ({has} channels) and this model draws {channels}: "
            f"give it a picture of {'grey' if channels == 1 else f'at most {channels} channels'}"
        )
    return torch.from_numpy(prepare(picture, height, width, channels))[None]


def load_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """Where a picture is to be painted.

    Args:
        path: of a picture, light where to paint and dark where to keep.
        size: height and width that it must have.

    Returns:
        bool (H, W), true where the picture is kept.

    Raises:
        UserError: it cannot be read, is of another size, or keeps all or nothing.
    """
    picture = _opened(path)
    own = display_size(picture)
    if own != size:
        raise UserError(
            f"the mask {path} is {own[0]}x{own[1]} and the picture {size[0]}x{size[1]}: they must be of one size"
        )
    kept = torch.from_numpy(prepare(picture, *own, 1)[0] < np.uint8(128))
    if bool(kept.all()):
        raise UserError(f"the mask {path} keeps the whole picture: make it white where to paint")
    if not bool(kept.any()):
        raise UserError(f"the mask {path} keeps nothing of the picture: fromnoise sample draws whole ones")
    return kept


def canvas(pixels: Tensor, size: tuple[int, int], at: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    """A picture laid on a larger sheet.

    Args:
        pixels: uint8 (1, C, H, W).
        size: height and width of the sheet.
        at: row and column of the picture's upper left corner; None for the middle.

    Returns:
        The sheet, uint8 (1, C, *size), and where the picture lies on it, bool of that size.

    Raises:
        UserError: the picture does not lie on the sheet, or covers it.
    """
    height, width = pixels.shape[-2:]
    top, left = at if at is not None else ((size[0] - height) // 2, (size[1] - width) // 2)
    if min(top, left) < 0 or top + height > size[0] or left + width > size[1]:
        raise UserError(
            f"a picture of {height}x{width} at row {top}, column {left} does not lie on a sheet of {size[0]}x{size[1]}:"
            " take a larger --size"
        )
    if (height, width) == size:
        raise UserError(f"the picture is as large as the sheet, {height}x{width}: name a larger --size")
    sheet = pixels.new_zeros((1, pixels.shape[1], *size))
    kept = torch.zeros(size, dtype=torch.bool)
    sheet[..., top : top + height, left : left + width] = pixels
    kept[top : top + height, left : left + width] = True
    return sheet, kept


def _opened(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError:
        raise UserError(f"there is no picture {str(path)!r}") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as e:
        why = getattr(e, "strerror", None) or "not an image, or a broken one"
        raise UserError(f"{path} cannot be read: {why}") from None
    return picture
