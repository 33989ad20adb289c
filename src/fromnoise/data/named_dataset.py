"""What a named data set is: a SPEC of one word.

A new one is one file in ``data/named/``, or in a module of the user's. Either a function that returns arrays::

    @register("dataset", "stripes")
    def stripes():
        \"\"\"Vertical and horizontal stripes.\"\"\"
        return {"train": (images, labels)}

or a class with a method ``open(log)`` that returns ``Splits``, such as a subclass of ``DownloadedDataset``.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fromnoise import registry
from fromnoise.data.arrays import array_splits
from fromnoise.data.download import RemoteFile, cache_folder, download
from fromnoise.data.source import Log, Splits
from fromnoise.utils.errors import UserError


class NamedDataset(ABC):
    """A data set with a name.

    Attributes:
        channels: of its images; None if unknown.
        size: (H, W) of its images; None if it differs or is unknown.
        classes: number of its classes; None if it has no labels or the number is unknown.
    """

    channels: ClassVar[int | None] = None
    size: ClassVar[tuple[int, int] | None] = None
    classes: ClassVar[int | None] = None

    @abstractmethod
    def open(self, log: Log) -> Splits:
        """Open the data set.

        Args:
            log: takes lines about downloads.

        Returns:
            Its splits.

        Raises:
            UserError: it is not available.
        """


class DownloadedDataset(NamedDataset):
    """A data set in the folder of its name, below $FROMNOISE_DATA or in the cache; otherwise it is downloaded.

    Attributes:
        name: of the folder.
        files: to download.
        manual_files: what to put into the folder by hand, for a message; the names of the files if empty.
        alternative: name of a similar data set that may be available instead, for a message; empty if there is none.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[RemoteFile, ...]]
    manual_files: ClassVar[str] = ""
    alternative: ClassVar[str] = ""

    @abstractmethod
    def find(self, parent: Path, log: Log) -> Splits | None:
        """Open the data set below a folder of data sets; None if it is not there."""

    def unpack(self, folder: Path) -> None:  # noqa: B027  most data sets are read as they are downloaded
        """Convert the downloaded files in ``folder`` to what ``find`` reads."""

    def open(self, log: Log) -> Splits:
        """See ``NamedDataset``."""
        cache, own = cache_folder(), os.environ.get("FROMNOISE_DATA")
        for parent in (*([Path(own).expanduser()] if own else []), cache):
            splits = self.find(parent, log)
            if splits is not None:
                return splits
        download(self.name, self.files, cache, log, self.unpack, self.manual_files, self.alternative)
        splits = self.find(cache, log)
        if splits is None:
            raise UserError(f"'{self.name}' was downloaded into {cache} but is gone: check whether it is being emptied")
        return splits


def open_named(name: str, log: Log) -> Splits:
    """Open a registered data set.

    Args:
        name: under which it is registered.
        log: takes lines about downloads.

    Raises:
        ValueError: no data set is registered under the name.
        UserError: it is not available, or what it returns are not images.
    """
    made: Any = registry.build("dataset", name)
    if isinstance(made, NamedDataset):
        return made.open(log)
    splits = made if isinstance(made, dict) else {"all": made}
    pairs = {split: value if isinstance(value, tuple) else (value, None) for split, value in splits.items()}
    wrong = next((pair for pair in pairs.values() if len(pair) != 2), None)
    if wrong is not None:
        raise UserError(f"the data set '{name}' returns {len(wrong)} values; return images, or (images, labels)")
    images = {split: np.asarray(value) for split, (value, _) in pairs.items()}
    labels = {split: np.asarray(value) for split, (_, value) in pairs.items() if value is not None}
    return array_splits(images, labels, name, log)
