"""A file format."""

import numpy as np

import fromnoise
from fromnoise.data import ImageFormat


@fromnoise.register("format", "raw8")
class Raw8(ImageFormat):
    """8x8 gray images of 64 bytes each."""

    suffixes = (".raw8",)

    def read(self, file):
        """Read 64 bytes."""
        content = file.read() if hasattr(file, "read") else file.read_bytes()
        return np.frombuffer(content, dtype=np.uint8).reshape(8, 8)
