"""Finished batches of sampling, so that several processes share it and a command that was interrupted goes on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fromnoise import checkpoint
from fromnoise.pipeline.sampling_run import Samples
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import check_folder
from fromnoise.utils.locks import lock_folder, unlock_folder


class SampleParts:
    """A hidden folder beside the output with a file for each finished batch.

    Its name has a digest of everything that the samples depend on, so that another command does not take them. Batch k
    is sampled by process k mod N, as a whole: the samples are those of one process, bit for bit on equal machines.

    Attributes:
        folder: the folder.
    """

    def __init__(self, out: Path, command: Mapping[str, Any]) -> None:
        """Name the folder; nothing is created yet.

        Args:
            out: the output of the command.
            command: everything that the samples depend on.
        """
        digest = hashlib.sha256(repr(sorted(command.items())).encode()).hexdigest()[:12]
        self.folder, self._out = out.parent / f".{out.name}.{digest}.parts", out
        self._lock: int | None = None

    def open(self) -> None:
        """Create the folder, and keep other processes with the same command out until ``close``.

        Raises:
            UserError: another process samples there, or the folder cannot be created.
        """
        check_folder(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.folder)
        except BlockingIOError:
            raise UserError(f"another process is writing {self._out}: wait for it, or choose another --out") from None
        except OSError as error:
            raise UserError(f"cannot write in {self.folder}: {error.strerror}; choose another --out") from None

    def close(self) -> None:
        """Release the lock of ``open``."""
        unlock_folder(self.folder, self._lock, remove=True)
        self._lock = None

    def save(self, number: int, samples: Samples, cost: Mapping[str, float] | None = None) -> None:
        """Write a finished batch.

        Args:
            number: of the batch.
            samples: of the batch.
            cost: numbers that ``load_with_cost`` returns.

        Raises:
            UserError: as of ``write_atomic``.
        """
        tensors = {"images": samples.images} | ({"labels": samples.labels} if samples.labels is not None else {})
        checkpoint.write(self._path(number), tensors, {"kind": "samples", "cost": dict(cost or {})})

    def load(self, number: int) -> Samples | None:
        """A finished batch; None if it is not there, or damaged."""
        found = self.load_with_cost(number)
        return found[0] if found is not None else None

    def load_with_cost(self, number: int) -> tuple[Samples, dict[str, float]] | None:
        """A finished batch, and its cost as of ``save``; None if it is not there, or damaged."""
        if not self._path(number).exists():
            return None
        try:
            tensors, header = checkpoint.read(self._path(number))
            return Samples(tensors["images"], tensors.get("labels")), dict(header["cost"])
        except (UserError, KeyError, TypeError, ValueError):
            return None

    def merge(self, count: int) -> Samples:
        """All batches in order.

        Args:
            count: number of batches.

        Raises:
            UserError: one is missing.
        """
        found = [self.load(number) for number in range(count)]
        batches = [batch for batch in found if batch is not None]
        if len(batches) < count:
            raise UserError(
                f"{count - len(batches)} of {count} batches are missing in {self.folder}: --out must be on a disk that "
                "all processes share"
            )
        labels = [batch.labels for batch in batches if batch.labels is not None]
        return Samples(torch.cat([batch.images for batch in batches]), torch.cat(labels) if labels else None)

    def remove(self) -> None:
        """Remove the folder; its lock is held until ``close``."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"
