"""Encoded images, and actions that are refused in one line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.utils.errors import UserError


def png(height: int = 8, width: int = 8) -> bytes:
    """An encoded grey image."""
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def refused(action, *words: str) -> str:
    """The one line of an action that fails."""
    with pytest.raises(UserError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text
    return text


def three_images(tmp_path) -> Path:
    """A folder of three images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(folder / f"{i}.png")
    return folder
