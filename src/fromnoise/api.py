"""The library's interface: load, sample and save models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fromnoise import checkpoint, interop
from fromnoise.pipeline import Pipeline


def load(source: str | Path, *, network: nn.Module | None = None, device: str | None = None) -> Pipeline:
    """Load a model to sample from.

    Args:
        source: a run directory, a .safetensors file, ``hub:owner/name[@revision]``, or a model of another program that
            ``fromnoise import`` reads without opening a pickle, such as a diffusers folder.
        network: the module whose weights the file holds, for a model with a network of its own; a file never names
            code to import.
        device: "cpu", "cuda", "cuda:1" or "mps"; None is the best available.

    Raises:
        UserError: there is no such file or repository, it is damaged, or it needs ``network``.
    """
    if network is None and interop.is_foreign(source):
        return Pipeline(interop.import_model(source).model, device=device)
    return Pipeline(checkpoint.load_model(source, network=network).model, device=device)


def sample(source: str | Path, n: int = 1, **options: Any) -> Tensor:
    """Samples of a saved model, uint8 (n, C, H, W): ``load(source).sample(n, **options)``."""
    return load(source).sample(n, **options)


def save(pipeline: Pipeline, path: str | Path) -> None:
    """Save a model as one .safetensors file, which ``load`` reads.

    Raises:
        UserError: the file cannot be written.
    """
    pipeline.save(path)
