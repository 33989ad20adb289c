"""Checkpoints: one safetensors file with the weights, and a JSON header from which the model is rebuilt.

Loading executes nothing that the file contains.

The header has a digest of itself and of the tensors, so that a truncated or changed file is detected. Files are written
under a temporary name, flushed to the disk and renamed, so that there is a complete file at any time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialize_safetensors
from torch import Tensor, nn

from fromnoise import __version__
from fromnoise.config import Recipe, parse
from fromnoise.data.dataset import Attribute
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import Model, build
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic

FORMAT = 2
"""Number of the file format; it changes when a file of an older version can no longer be read."""
_NO_DIGEST = "0" * 64  # takes the place of the digest while it is computed
_MAX_HEADER = 100_000_000  # bytes, as in the safetensors library


class DamagedFile(UserError):
    """A file is truncated, was changed, or was not written by fromnoise."""


class OtherFormat(UserError):
    """A file was written by a version of fromnoise with another file format."""


def write(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header atomically, with a digest of both.

    Raises:
        UserError: as ``write_atomic``.
    """
    tensors = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
    text = json.dumps({"digest": _NO_DIGEST, "format": FORMAT, "version": __version__, **header}, sort_keys=True)
    text = text.replace(_NO_DIGEST, _digest(tensors, text), 1)
    # one key of metadata: safetensors writes several in an order that changes from run to run
    write_atomic(Path(path), serialize_safetensors(tensors, {"fromnoise": text}))


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and header of a file that ``write`` wrote.

    Raises:
        DamagedFile: it is truncated, was changed, or is something else; a pickle is refused without opening it.
        OtherFormat: it was written by a version with another file format.
        UserError: it cannot be read at all.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    # a safetensors file begins with a length of 8 bytes, which can have any value, followed by "{"
    if data[8:9] != b"{" and data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise DamagedFile(
            f"{path} is a pickle or an archive, which can run code when opened: refused; "
            "only .safetensors files are read"
        )
    try:
        tensors = parse_safetensors(data)
    except (SafetensorError, ValueError):
        raise DamagedFile(f"{path} is damaged or not a safetensors file (its header cannot be read)") from None
    text = _description(path, data)
    header = _parse_description(path, text)
    digest = str(header.pop("digest", ""))
    if not digest or digest != _digest(tensors, text.replace(digest, _NO_DIGEST, 1)):
        raise DamagedFile(f"{path} is damaged: its content does not match its digest")
    _check_format(path, header)
    return tensors, header


def check_run_format(folder: Path) -> None:
    """Check that the files in a run directory have the format of this version.

    Call it when another file of the directory cannot be parsed: the recipe of an older version has other keys, and the
    version of fromnoise that wrote it is known from the header of the model or of a state.

    Raises:
        OtherFormat: they were written by a version with another file format.
    """
    for path in (folder / "model.safetensors", *sorted(folder.glob("state/*.safetensors"), reverse=True)):
        try:
            with path.open("rb") as file:
                size = file.read(8)
                data = size + file.read(min(int.from_bytes(size, "little"), _MAX_HEADER))
            header = _parse_description(path, _description(path, data))
        except (OSError, DamagedFile):
            continue
        _check_format(path, header)
        return


def _description(path: str | Path, data: bytes) -> str:
    """The JSON text of the header that ``write`` adds to the metadata of a safetensors file."""
    try:
        size = int.from_bytes(data[:8], "little")
        meta = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        found = "fromnoise" in meta
    except (ValueError, AttributeError, TypeError):
        raise DamagedFile(f"{path} is damaged or not a safetensors file (its header cannot be read)") from None
    if not found:
        raise DamagedFile(f"{path} holds weights but was not written by fromnoise (no description in its header)")
    return str(meta["fromnoise"])


def _parse_description(path: str | Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise DamagedFile(f"{path} is damaged: its description cannot be read")
    return header


def _check_format(path: str | Path, header: dict[str, Any]) -> None:
    number, version = header.get("format"), header.get("version", "of unknown version")
    if number == FORMAT:
        return
    if isinstance(number, int) and number > FORMAT:
        raise OtherFormat(f"{path} was written by fromnoise {version}, a later version: upgrade to read it")
    raise OtherFormat(
        f"{path} was written by fromnoise {version}, whose format this version does not read: "
        f"retrain it, or use fromnoise {version}"
    )


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """BLAKE2b of the header's text and of each tensor's name, type, shape and bytes."""
    digest = hashlib.blake2b(text.encode(), digest_size=32)
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"\0{name}\0{t.dtype}\0{tuple(t.shape)}\0".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data if t.numel() else b"")
    return digest.hexdigest()


def model_header(recipe: Recipe, dataset_info: DatasetInfo) -> dict[str, Any]:
    """Describe a model in a header: its recipe and its data."""
    return {"recipe": recipe.model_dump(mode="json", exclude_none=True), "dataset": asdict(dataset_info)}


def parse_header(header: dict[str, Any]) -> tuple[Recipe, DatasetInfo]:
    """Read what ``model_header`` put into a header.

    Raises:
        DamagedFile: the header does not describe a model.
        UserError: the recipe has unknown keys or values out of range.
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
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedFile("the header of this file does not describe a model of fromnoise") from None


def save_model(path: str | Path, model: Model, weights: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Write what sampling needs: the weights of the denoiser, the recipe and the description of the data.

    Args:
        path: of the file.
        model: whose recipe and data are described.
        weights: state dict of the denoiser, such as its EMA.
        progress: of training, such as {"step": 1000}.

    Raises:
        UserError: as ``write_atomic``.
    """
    write(path, weights, {"kind": "model", "progress": progress, **model_header(model.recipe, model.dataset_info)})


@dataclass(frozen=True)
class LoadedModel:
    """A model that was read from a file.

    Attributes:
        model: on the CPU, in evaluation mode.
        progress: of its training.
        path: of the file.
    """

    model: Model
    progress: dict[str, Any]
    path: Path


def load_model(run: str | Path, network: nn.Module | None = None) -> LoadedModel:
    """Load the model of a run directory or of one .safetensors file, on the CPU, ready to sample.

    Args:
        run: the run directory or the file.
        network: a module for the weights, in place of the one that the file describes.

    Raises:
        UserError: there is none, the file is damaged, or it was written by a version with another file format.
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
        raise UserError(f"{path} is a state for resuming, not a model: use the model.safetensors of the run folder")
    if network is not None:
        header["recipe"]["network"] = "custom"
    recipe, dataset_info = parse_header(header)
    model = build(recipe, dataset_info, network=network)
    try:
        model.denoiser.load_state_dict(tensors)
    except RuntimeError:
        raise DamagedFile(f"{path}: its weights do not fit the network that its header describes") from None
    model.denoiser.eval()
    return LoadedModel(model, header["progress"], path)
