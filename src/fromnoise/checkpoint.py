"""Checkpoints: one safetensors file with the weights, and a JSON header from which the model is rebuilt.

Loading executes nothing that the file contains.

The header has a digest of itself and of the tensors, so that a truncated or changed file is detected. Files are written
under a temporary name, flushed to the disk and renamed, so that there is a complete file at any time.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialize_safetensors
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from fromnoise import __version__
from fromnoise.config import Recipe, parse
from fromnoise.data.dataset import Attribute
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.schedules import MAX_STEPS
from fromnoise.model import Model, build
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic
from fromnoise.utils.reading import UnreadableFile, first_line, limits, open_regular, printable, read_bytes

FORMAT = 2
"""Number of the file format; it changes when a file of an older version can no longer be read."""
_NO_DIGEST = "0" * 64  # takes the place of the digest while it is computed
_MAX_HEADER = 16 << 20  # bytes


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
    data = _read_checked(path)
    try:
        tensors = parse_safetensors(data)
    except Exception:  # a damaged file can make the parser raise anything
        raise DamagedFile(f"{path} is damaged or not a safetensors file (its header cannot be read)") from None
    text = _description(path, data)
    header = _parse_description(path, text)
    digest = str(header.pop("digest", ""))
    if not digest or digest != _digest(tensors, text.replace(digest, _NO_DIGEST, 1)):
        raise DamagedFile(f"{path} is damaged: its content does not match its digest")
    _check_format(path, header)
    return tensors, header


def _read_checked(path: str | Path) -> bytes:
    """Read a file whose first bytes are those of a safetensors file.

    Raises:
        DamagedFile: they are not.
        UnreadableFile: it is not a regular file, or larger than the limit.
    """
    with open_regular(path) as file:
        start = file.read(9)
    # a safetensors file begins with a length of 8 bytes, which can have any value, followed by "{"
    if start[8:9] != b"{" and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise DamagedFile(
            f"{path} is a pickle or an archive, which can run code when opened: refused; "
            "only .safetensors files are read"
        )
    if start[8:9] != b"{" or int.from_bytes(start[:8], "little") > _MAX_HEADER:
        raise DamagedFile(f"{path} is damaged or not a safetensors file (its header cannot be read)")
    return read_bytes(path, limits().checkpoint_bytes)


def check_run_format(folder: Path) -> None:
    """Check that the files in a run directory have the format of this version.

    Call it when another file of the directory cannot be parsed: the recipe of an older version has other keys, and the
    version of fromnoise that wrote it is known from the header of the model or of a state.

    Raises:
        OtherFormat: they were written by a version with another file format.
    """
    for path in (folder / "model.safetensors", *sorted(folder.glob("state/*.safetensors"), reverse=True)):
        try:
            with open_regular(path) as file:
                size = file.read(8)
                data = size + file.read(min(int.from_bytes(size, "little"), _MAX_HEADER))
            header = _parse_description(path, _description(path, data))
        except (OSError, DamagedFile, UnreadableFile):
            continue
        _check_format(path, header)
        return


def _description(path: str | Path, data: bytes) -> str:
    """The JSON text of the header that ``write`` adds to the metadata of a safetensors file."""
    try:
        size = int.from_bytes(data[:8], "little")
        meta = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        found = "fromnoise" in meta
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise DamagedFile(f"{path} is damaged or not a safetensors file (its header cannot be read)") from None
    if not found:
        raise DamagedFile(f"{path} holds weights but was not written by fromnoise (no description in its header)")
    return str(meta["fromnoise"])


def _parse_description(path: str | Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
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
        check_numbers(header["recipe"])
        dataset_info = _parse_dataset_info(header["dataset"])
        return parse(header["recipe"]), dataset_info
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reason = f" ({first_line(error)})" if type(error) is ValueError else ""
        raise DamagedFile(f"the header of this file does not describe a model of fromnoise{reason}") from None


_LARGEST = {"network": 1 << 16, "diffusion": MAX_STEPS, "loss": MAX_STEPS, "sample": MAX_STEPS, "published": MAX_STEPS}
"""Largest whole number in a section of a recipe that is read from a file; no network or schedule needs larger ones."""
_LARGEST_LIST = {"network": 64}


def check_numbers(recipe: dict[str, Any]) -> None:
    """Check the numbers of a recipe before a component is built from them.

    Raises:
        ValueError: a number is too large.
    """
    for section, largest in _LARGEST.items():
        waiting = [(section, recipe.get(section))]
        while waiting:
            key, value = waiting.pop()
            if isinstance(value, dict):
                waiting += [(f"{key}.{name}", inner) for name, inner in value.items()]
            elif isinstance(value, list):
                if len(value) > _LARGEST_LIST.get(section, largest):
                    raise ValueError(f"{key} has {len(value)} values")
                waiting += [(key, inner) for inner in value]
            elif isinstance(value, int) and abs(value) > largest:
                raise ValueError(f"{key} = {str(value)[:20]} is too large")


def _parse_dataset_info(values: dict[str, Any]) -> DatasetInfo:
    """Read the description of the data in a header.

    Raises:
        Exception: it is not one.
    """
    channels, height, width = (operator.index(side) for side in values["shape"])
    if min(channels, height, width) < 1 or channels > 1024 or height * width > limits().pixels:
        raise ValueError(f"images of {channels}x{height}x{width}")
    names, attributes = values["class_names"], values.get("attributes")
    class_names = tuple(_printable(name) for name in names) if names is not None else None
    if class_names is not None and not class_names:
        raise ValueError("no classes")
    parsed = [Attribute(_printable(a["name"]), float(a["mean"]), float(a["deviation"])) for a in attributes or ()]
    if not all(math.isfinite(v) for a in parsed for v in (a.mean, a.deviation)):
        raise ValueError("attributes that are not finite")
    return DatasetInfo((channels, height, width), class_names, str(values["fingerprint"]), tuple(parsed) or None)


def _printable(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError
    return printable(name)


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
    try:
        if network is not None:
            header["recipe"]["network"] = "custom"
        recipe, dataset_info = parse_header(header)
        model = rebuild(recipe, dataset_info, tensors, network)
    except UserError as error:
        raise type(error)(f"{path}: {error}") from None
    except TypeError:
        raise DamagedFile(f"{path}: its header does not describe a model of fromnoise") from None
    progress = header.get("progress")
    if not isinstance(progress, dict):
        raise DamagedFile(f"{path}: its header does not describe a model of fromnoise")
    return LoadedModel(model, progress, path)


def rebuild(
    recipe: Recipe, dataset_info: DatasetInfo, tensors: dict[str, Tensor], network: nn.Module | None = None
) -> Model:
    """The model of a recipe with given weights, in evaluation mode.

    Args:
        recipe: of the model; its numbers have been checked by ``check_numbers``.
        dataset_info: of its data.
        tensors: state dict of its denoiser.
        network: as of ``load_model``.

    Raises:
        DamagedFile: the weights do not fit the network.
        UserError: they are not finite, or the recipe is impossible.
    """
    if network is None:
        check_fit(recipe, dataset_info, tensors)
    model = build(recipe, dataset_info, network=network)
    try:
        model.denoiser.load_state_dict(tensors)
    except RuntimeError:
        raise DamagedFile("its weights do not fit the network that its header describes") from None
    bad = next((name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)
    if bad is not None:
        raise UserError(
            f"its weights are not finite ({printable(bad)}), so it cannot sample: "
            "train again with a lower --train.lr, or use an earlier file"
        )
    model.denoiser.eval()
    return model


def check_fit(recipe: Recipe, dataset_info: DatasetInfo, tensors: dict[str, Tensor]) -> None:
    """Compare the network that a header describes with the tensors of its file, before memory is allocated for it.

    Raises:
        DamagedFile: a name, a shape or the number of layers differs.
    """
    mismatch = DamagedFile("its weights do not fit the network that its header describes")
    registered = [0, 0]

    def count(kind: int, most: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            registered[kind] += 1
            if registered[kind] > most:
                raise mismatch

        return hook

    hooks = (
        register_module_parameter_registration_hook(count(0, len(tensors))),
        register_module_module_registration_hook(count(1, 1000 + 20 * len(tensors))),
    )
    try:
        expected = build(recipe, dataset_info, device="meta").denoiser.state_dict()
    except UserError:
        raise
    except Exception:  # a network of a plug-in may not support the meta device
        return
    finally:
        for hook in hooks:
            hook.remove()
    kinds = {name: (t.shape, t.is_floating_point()) for name, t in expected.items()}
    if kinds != {name: (t.shape, t.is_floating_point()) for name, t in tensors.items()}:
        raise mismatch
