"""What a file format is: which files it reads, and how.

A new format is one file in ``data/formats/``, or in a module of the user's::

    @register("format", "raw")
    class RawImages(ImageFormat):
        \"\"\"8x8 grey images of 64 bytes each.\"\"\"

        suffixes = (".raw",)

        def read(self, file):
            return np.fromfile(file, dtype=np.uint8).reshape(8, 8)

An ``ImageFormat`` reads one image from one file; folders, archives, classes by sub-folder and label tables then work as
for the formats of the package. A ``Format`` reads a whole data set from a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from PIL import Image

from fromnoise import registry
from fromnoise.data.source import Log, Splits


class Format(ABC):
    """A file format that holds a data set.

    Attributes:
        suffixes: lower-case ends of the names of its files, such as ``.npz``.
        description: of its files in messages; the suffixes if empty.
        several_files: whether all such files in a folder are one data set together.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    description: ClassVar[str] = ""
    several_files: ClassVar[bool] = False

    def matches(self, name: str) -> bool:
        """Whether a file of this name has the format; its suffix goes first."""
        return name.lower().endswith(self.suffixes)

    @abstractmethod
    def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
        """Open a data set.

        Args:
            root: a folder.
            names: its files of this format, relative to it; exactly one unless ``several_files``.
            log: takes lines that say how the files were interpreted.

        Returns:
            Its splits.

        Raises:
            UserError: a file is damaged or holds no images.
        """


class ImageFormat(ABC):
    """A file format that holds one image.

    Attributes:
        suffixes: lower-case ends of the names of its files, such as ``.png``.
        description: of its files in messages; the suffixes if empty.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    description: ClassVar[str] = ""

    @abstractmethod
    def read(self, file: Path | BinaryIO) -> Image.Image | np.ndarray:
        """Read the image.

        Args:
            file: path of the file, or an open binary file if it lies in an archive.

        Returns:
            A Pillow image, or uint8 of shape (H, W) or (H, W, C).

        A path is that of a regular file, whose size is within the limits.

        Raises:
            Exception: the file is damaged.
        """


AnyFormat = Format | ImageFormat


@lru_cache(maxsize=8)
def _instances(components: tuple[Callable[..., Any], ...]) -> tuple[AnyFormat, ...]:
    formats = tuple(component() for component in components)
    wrong = next((f for f in formats if not isinstance(f, AnyFormat)), None)
    if wrong is not None:
        raise TypeError(f"the registered format {type(wrong).__qualname__} must extend Format or ImageFormat")
    return formats


def all_formats() -> tuple[AnyFormat, ...]:
    """The registered formats, the last registered first, so that a plug-in can replace a format of the package."""
    return _instances(tuple(registry.get("format", name) for name in reversed(registry.names("format"))))


def find_format(name: str) -> AnyFormat | None:
    """The format of a file of this name: by its suffix, otherwise by its whole name; None if there is none."""
    by_suffix = (f for f in all_formats() if f.suffixes and name.lower().endswith(f.suffixes))
    return next(by_suffix, None) or next((f for f in all_formats() if isinstance(f, Format) and f.matches(name)), None)


def image_format(name: str) -> ImageFormat | None:
    """The format of an image file of this name; None if it is not an image file."""
    formats = (f for f in all_formats() if isinstance(f, ImageFormat))
    return next((f for f in formats if name.lower().endswith(f.suffixes)), None)


def image_suffixes() -> list[str]:
    """The suffixes of the formats of image files."""
    return [suffix for f in all_formats() if isinstance(f, ImageFormat) for suffix in f.suffixes]


def image_files(names: Iterable[str]) -> list[str]:
    """The image files among ``names``."""
    suffixes = tuple(image_suffixes())
    return [name for name in names if name.lower().endswith(suffixes)]


def describe_formats() -> str:
    """Name what can be opened, in words."""
    formats = [f.description or ", ".join(f.suffixes) for f in reversed(all_formats())]
    return "a folder of images, " + ", ".join(formats[:-1]) + f" or {formats[-1]}"
