"""Image files that Pillow decodes."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, final

from PIL import Image

from fromnoise.data.decoding import open_encoded
from fromnoise.data.format import ImageFormat
from fromnoise.registry import register


@register("format", "image")
@final
class PillowImage(ImageFormat):
    """An image file in any of the formats that Pillow decodes."""

    description = "an image file"
    suffixes = (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".ico"),
    )

    def read(self, file: Path | BinaryIO) -> Image.Image:
        """Open the file; it is decoded when the pixels are used."""
        return open_encoded(file)
