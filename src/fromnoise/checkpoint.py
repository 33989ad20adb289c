"""One self-describing safetensors file: weights, and a JSON header that says how to rebuild the model.

Nothing in it can execute.

The header carries a digest of itself and of the tensors, so that a truncated or flipped file is known as such. Files
are written to a temporary name, flushed to the disk and renamed: at every moment a whole file stands under the name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as _parse
from safetensors.torch import save as _serialise
from torch import Tensor

from fromnoise import __version__
from fromnoise.config import Recipe, parse
from fromnoise.data import Attribute
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import Model, build
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic

FORMAT = 1
_BLANK = "0" * 64  # where the digest goes, while it is taken


class DamagedFile(UserError):
    """A file is truncated, flipped or none of ours."""


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header, atomically, with a digest over both.

    Raises:
        UserError: as ``write_atomic``.
    """
    tensors = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
    text = json.dumps({"digest": _BLANK, "format": FORMAT, "version": __version__, **header}, sort_keys=True)
    # one key of metadata: safetensors writes several in an order that changes from run to run
    write_atomic(path, _serialise(tensors, {"fromnoise": text.replace(_BLANK, _digest(tensors, text), 1)}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that ``write`` made.

    Raises:
        Damaged: it is truncated, was changed, or is something else; a pickle is refused unopened.
        UserError: it cannot be read at all.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    # of a safetensors file the first 8 bytes are a length, which may look like anything, and the next is "{"
    if data[8:9] != b"{" and data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise DamagedFile(
            f"{path} is a pickle or an archive, which can run code when opened: refused; "
            "only .safetensors files are read"
        )
    try:
        tensors = _parse(data)
        size = int.from_bytes(data[:8], "little")
        meta = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, ValueError, UnicodeDecodeError):
        raise DamagedFile(f"{path} is damaged or no safetensors file (its header cannot be read)") from None
    if "fromnoise" not in meta:
        raise DamagedFile(f"{path} holds weights but was not written by fromnoise (no description in its header)")
    try:
        header = json.loads(meta["fromnoise"])
        digest = str(header.pop("digest"))
    except (ValueError, KeyError, AttributeError):
        raise DamagedFile(f"{path} is damaged: its description cannot be read") from None
    if digest != _digest(tensors, meta["fromnoise"].replace(digest, _BLANK, 1)):
        raise DamagedFile(f"{path} is damaged: its content does not match its digest")
    if header["format"] > FORMAT:
        raise UserError(f"{path} was written by fromnoise {header['version']}, a later version: upgrade to read it")
    return tensors, header


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """BLAKE2b over the header's text and each tensor's name, type, shape and bytes."""
    digest = hashlib.blake2b(text.encode(), digest_size=32)
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"\0{name}\0{t.dtype}\0{tuple(t.shape)}\0".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data if t.numel() else b"")
    return digest.hexdigest()


def model_header(recipe: Recipe, dataset_info: DatasetInfo) -> dict[str, Any]:
    """What a header says of a model."""
    return {"recipe": recipe.model_dump(mode="json", exclude_none=True), "dataset": asdict(dataset_info)}


def parse_header(header: dict[str, Any]) -> tuple[Recipe, DatasetInfo]:
    """What ``describe`` wrote.

    Raises:
        Damaged: it does not describe a model.
    """
    try:
        dataset_info = header["dataset"]
        class_names = tuple(dataset_info["class_names"]) if dataset_info["class_names"] is not None else None
        channels, height, width = dataset_info["shape"]
        attributes = (
            tuple(Attribute(**a) for a in dataset_info["attributes"]) if dataset_info.get("attributes") else None
        )
        return parse(header["recipe"]), DatasetInfo(
            (channels, height, width), class_names, dataset_info["fingerprint"], attributes
        )
    except (KeyError, TypeError, ValueError):
        raise DamagedFile("this file's header does not describe a model of ours") from None


def save_model(path: Path, model: Model, weights: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Write what sampling needs: the weights of the denoiser, the recipe, the facts.

    Raises:
        UserError: as ``write_atomic``.
    """
    write(path, weights, {"kind": "model", "progress": progress, **model_header(model.recipe, model.dataset_info)})


@dataclass(frozen=True)
class LoadedModel:
    """A model read from a file, and how far its training was."""

    model: Model
    progress: dict[str, Any]
    path: Path


def load_model(run: str | Path) -> LoadedModel:
    """The model of a run folder or of one .safetensors file, on the CPU, ready to sample.

    Raises:
        UserError: there is none, or the file is damaged.
    """
    path = Path(run)
    if path.is_dir():
        if not (path / "model.safetensors").exists():
            raise UserError(f"{path} holds no model.safetensors: is it a run folder whose training has begun?")
        path = path / "model.safetensors"
    elif not path.exists():
        raise UserError(f"there is no run folder or model file {str(run)!r}: fromnoise train makes one in runs/")
    tensors, header = read(path)
    if header.get("kind") != "model":
        raise UserError(f"{path} is a state for resuming, not a model: take the model.safetensors beside it")
    recipe, dataset_info = parse_header(header)
    model = build(recipe, dataset_info)
    try:
        model.denoiser.load_state_dict(tensors)
    except RuntimeError:
        raise DamagedFile(f"{path}: its weights do not fit the network that its header describes") from None
    model.denoiser.eval()
    return LoadedModel(model, header["progress"], path)
