"""Where a foreign model lies: a folder, a file or a repository of the hub, read once and within limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load as parse_safetensors
from torch import Tensor

from fromnoise.interop.pickles import NOTICE, is_pickle, read_pickle
from fromnoise.utils.errors import UserError
from fromnoise.utils.hub import is_hub, open_repository
from fromnoise.utils.reading import decoding, limits, read_bytes, read_text

MAX_CONFIG = 16 << 20
"""Bytes of a JSON configuration, at most."""


class Source:
    """A folder or a file with a foreign model, or a repository of the hub.

    Attributes:
        path: of it; for a repository, the folder of its small files, to which ``fetch`` adds.
        name: for messages.
        read_pickles: whether a pickle may be read, with ``weights_only=True``: ``fromnoise import`` alone does.
    """

    def __init__(
        self,
        path: str | Path,
        read_pickles: bool = False,
        on_notice: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Name the source; of a repository the small files are downloaded.

        Args:
            path: of it, or ``hub:owner/name[@revision]``.
            read_pickles: as above.
            on_notice: called with the sentence that is said before a pickle is read.

        Raises:
            UserError: there is nothing at the path, or the repository cannot be read.
        """
        self._repository = open_repository(path) if is_hub(path) else None
        self.path = self._repository.folder if self._repository is not None else Path(path)
        self.name, self.read_pickles, self._on_notice = str(path), read_pickles, on_notice
        if not self.path.exists():
            raise UserError(f"there is no model at '{path}': name a folder or a file")

    def fetch(self, *names: str) -> None:
        """Download files of a repository, if it has them; those of a folder are here.

        Raises:
            UserError: the hub cannot be reached.
        """
        if self._repository is not None:
            self._repository.fetch(*names)

    def has(self, name: str) -> bool:
        """Whether the folder has a file or folder of this name."""
        return (self.path / name).exists()

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object in a file of the folder.

        Raises:
            UserError: there is none, it is damaged, too large or nested too deeply, or holds something else.
        """
        return read_json(self.path / name)

    @cached_property
    def is_pickle(self) -> bool:
        """Whether it is a pickle that may be read."""
        return self.read_pickles and is_pickle(self.path)

    @cached_property
    def pickle(self) -> Any:
        """What a pickle holds.

        Raises:
            UserError: it calls functions, is damaged, or may not be read.
        """
        return self.pickle_of(self.path)

    def pickle_of(self, path: Path) -> Any:
        """What a pickle in the source holds.

        Raises:
            UserError: it calls functions, is damaged, or may not be read.
        """
        if not self.read_pickles:
            raise UserError(f"{path} is a pickle: make a run folder of it with fromnoise import")
        self._on_notice(NOTICE.format(path=path))
        return read_pickle(path)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a .safetensors file.

        Raises:
            UserError: it is damaged.
        """
        return read_safetensors(self.path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: as of ``Source.json``.
    """
    text = read_text(path, MAX_CONFIG)
    with decoding(path, "a JSON object", "download it again"):
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
        return values


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        UserError: it is damaged, or larger than the limit.
    """
    data = read_bytes(path, limits().checkpoint_bytes)
    with decoding(path, ".safetensors", "download it again"):
        return parse_safetensors(data)
