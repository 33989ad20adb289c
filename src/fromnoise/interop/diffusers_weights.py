"""What the folders of all models of diffusers share: their weights, in one file or several, and the size of images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fromnoise.interop.foreign_config import ForeignConfig
from fromnoise.interop.source import Source, read_json, read_safetensors
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic
from fromnoise.utils.reading import printable

VERSION = "0.42.1"
"""The version of diffusers with which the tests compare."""
STEM = "diffusion_pytorch_model"
"""How the names of files of weights begin."""
WEIGHTS = f"{STEM}.safetensors"
WIDEST = 1 << 16
"""Largest number of channels, layers or classes."""
_VARIANTS = ("", ".fp16", ".non_ema")
_MAX_FILES = 1000
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(\.)")


def image_size(config: ForeignConfig, size: int | None) -> tuple[int, int]:
    """Height and width of the images: a side that the user gives, or ``sample_size``.

    Raises:
        UserError: there is none, or it is out of range.
    """
    value = size if size is not None else config.get("sample_size", None)
    if value is None:
        raise UserError(f"{config.name} has no sample_size: give the side of the images, as in --size 32")
    sides = [value, value] if isinstance(value, int) else value
    good = isinstance(sides, list | tuple) and len(sides) == 2
    if not good or not all(type(s) is int and 1 <= s <= 16384 for s in sides):
        raise config.refuse("sample_size", "one or two sides in pixels, up to 16384")
    return sides[0], sides[1]


def sides(height: int, width: int) -> int | list[int]:
    """``sample_size``: one number for a square."""
    return height if height == width else [height, width]


def write_network(folder: Path, config: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a network's configuration and weights.

    Args:
        folder: which is made.
        config: with its ``_class_name``.
        weights: by the names of the class.

    Raises:
        UserError: as ``write_atomic``.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in weights.items()}
    write_atomic(folder / WEIGHTS, save(tensors, {"format": "pt"}))
    write_json(folder / "config.json", {"_diffusers_version": VERSION, **config})


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object as diffusers does, keys in order.

    Raises:
        UserError: as ``write_atomic``.
    """
    write_atomic(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())


def read_weights(source: Source, inside: str) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in float32 by the names of today's versions, and what was converted.

    Args:
        source: of the model.
        inside: folder of the network in it with a slash at the end, such as "unet/"; "" for the source itself.

    Raises:
        UserError: there are none.
    """
    folder = source.path / inside
    name = _find(source, folder, inside, "safetensors")
    if name is None and source.read_pickles:
        name = _find(source, folder, inside, "bin")
    if name is None:
        found = next(iter(sorted(p.name for p in folder.glob(f"{STEM}*"))), None)
        hint = "it is not complete"
        if not source.read_pickles:
            hint = f"{f'it has {found}; ' if found else ''}pickles (.bin) are read by fromnoise import alone"
        raise UserError(f"{source.name} has no {inside}{WEIGHTS}: {hint}")
    notes = [] if name == WEIGHTS else [f"weights of {name}"]
    tensors = dict(_tensors(source, folder, inside, name))
    if any(_OLD_NAME.search(name) for name in tensors):
        notes.append("attention weights renamed, as diffusers does: query, key, value, proj_attn to to_q, to_k, ...")
    kinds = {str(t.dtype).removeprefix("torch.") for t in tensors.values()} - {"float32"}
    if kinds:
        notes.append(f"weights converted from {', '.join(sorted(kinds))} to float32")
    return {
        _OLD_NAME.sub(lambda m: m[1] + _OLD_NAMES[m[2]] + m[3], n): t.to(torch.float32) for n, t in tensors.items()
    }, notes


def _find(source: Source, folder: Path, inside: str, suffix: str) -> str | None:
    """Name of the file with the weights, or of the index of several; None if there is none."""
    names = [f"{STEM}{variant}.{suffix}" for variant in _VARIANTS]
    names += [f"{STEM}.{suffix}.index{variant}.json" for variant in _VARIANTS]
    found = next((name for name in names if (folder / name).exists()), None)
    if found is not None:
        return found
    for name in names:
        source.fetch(inside + name)
        if (folder / name).exists():
            return name
    return None


def _tensors(source: Source, folder: Path, inside: str, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file, or of all files of an index.

    Raises:
        UserError: a file is missing, damaged or holds something else.
    """
    read: Callable[[Path], Any] = source.pickle_of if ".bin" in name else read_safetensors
    files = {name: None} if not name.endswith(".json") else _files_of_index(folder / name)
    source.fetch(*(inside + file for file in files))
    for file, wanted in files.items():
        held = read(folder / file)
        if not isinstance(held, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in held.items()):
            raise UserError(f"{folder / file} holds something else than the weights of a network")
        missing = (wanted or set()) - set(held)
        if missing:
            raise UserError(f"{folder / file} has no {printable(min(missing))}, which {name} places there")
        yield from ((k, v) for k, v in held.items() if wanted is None or k in wanted)


def _files_of_index(path: Path) -> dict[str, set[str]]:
    """The names of the tensors in each file of an index.

    Raises:
        UserError: it is damaged, or names something else than files beside it.
    """
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{path} has no weight_map: download it again")
    files: dict[str, set[str]] = {}
    for tensor, file in places.items():
        if not isinstance(file, str) or not re.fullmatch(rf"{STEM}[\w.-]*\.(safetensors|bin)", file):
            raise UserError(f"{path}: {printable(str(file))[:60]!r} is no name of a file of weights beside it")
        files.setdefault(file, set()).add(tensor)
    if len(files) > _MAX_FILES:
        raise UserError(f"{path} names {len(files):,} files: at most {_MAX_FILES:,} are read")
    if path.name.startswith(WEIGHTS) != all(file.endswith(".safetensors") for file in files):
        raise UserError(f"{path} names files of another kind than its own name")
    return files
