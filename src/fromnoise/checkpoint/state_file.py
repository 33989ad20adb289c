"""A training state: one file, or one that names the files of several processes (``checkpoint/sharded.py``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from fromnoise.checkpoint.tensor_file import read

KEY = "shards"
"""Key of a state's header under which the files of several processes are listed."""


def shard_folder(header: dict[str, Any]) -> str | None:
    """The name of the folder with the files of a state; None if the state is one file."""
    listed = header.get(KEY)
    return str(listed.get("folder")) if isinstance(listed, dict) else None


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a state, whole, and its header, by one process.

    Raises:
        DamagedFile: as ``read``, or a file that the header names is missing or damaged.
        UserError: as ``read``.
    """
    tensors, header = read(path)
    if KEY in header:
        from fromnoise.checkpoint.sharded import read_parts  # imports torch.distributed

        tensors = read_parts(path)
    return tensors, header
