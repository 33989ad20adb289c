"""A safetensors file with a JSON header and a digest of both, written atomically."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialize_safetensors
from torch import Tensor

from fromnoise import __version__
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic
from fromnoise.utils.reading import UnreadableFile, limits, open_regular, read_bytes

FORMAT = 2
"""Number of the file format; it changes when a file of an older version can no longer be read."""
_NO_DIGEST = "0" * 64  # takes the place of the digest while it is computed
_MAX_HEADER = 16 << 20  # bytes
_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}  # as safetensors names them


class DamagedFile(UserError):
    """A file is truncated, was changed, or was not written by fromnoise."""


class OtherFormat(UserError):
    """A file was written by a version of fromnoise with another file format."""


def write(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header atomically, with a digest of both.

    Raises:
        UserError: as ``write_atomic``.
    """
    write_atomic(Path(path), serialize(tensors, header))


def serialize(tensors: dict[str, Tensor], header: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    """The content of a file of tensors and a JSON header, with a digest of both.

    Args:
        tensors: by name.
        header: JSON values.
        metadata: text for other programs, which the digest leaves out.
    """
    tensors = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
    text = json.dumps({"digest": _NO_DIGEST, "format": FORMAT, "version": __version__, **header}, sort_keys=True)
    text = text.replace(_NO_DIGEST, _digest(tensors, text), 1)
    # one key of metadata: safetensors writes several in an order that changes from run to run
    content = serialize_safetensors(tensors, {"fromnoise": text})
    return content if not metadata else _with_metadata(content, metadata)


def _with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """A safetensors file with further metadata; the positions of its tensors count from the end of its header."""
    size = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + size])
    head["__metadata__"] |= metadata
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


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
            f"fromnoise import {path} --out RUN reads the weights of some"
        )
    if start[8:9] != b"{" or int.from_bytes(start[:8], "little") > _MAX_HEADER:
        raise DamagedFile(f"{path} is damaged or not a safetensors file (its header cannot be read)")
    return read_bytes(path, limits().checkpoint_bytes)


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a file, without reading its tensors and without checking its digest.

    Raises:
        DamagedFile: the header cannot be read.
        UnreadableFile: it is not a regular file, or cannot be read.
    """
    return _parse_description(path, _description(path, _first_bytes(path)))


def read_index(path: str | Path) -> tuple[dict[str, tuple[torch.dtype, list[int]]], dict[str, Any]]:
    """Type and shape of each tensor of a file, and its header; as ``read_header``.

    Raises:
        DamagedFile: a type or a shape cannot be read.
    """
    data = _first_bytes(path)
    header = _parse_description(path, _description(path, data))
    _check_format(path, header)
    index: dict[str, tuple[torch.dtype, list[int]]] = {}
    for name, entry in json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).items():
        if name == "__metadata__":
            continue
        dtype, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
        if dtype not in _DTYPES or not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise DamagedFile(f"{path} is damaged: type or shape of {name[:200]!r} cannot be read")
        index[name] = (_DTYPES[dtype], shape)
    if sum(dtype.itemsize * math.prod(shape) for dtype, shape in index.values()) > Path(path).stat().st_size:
        raise DamagedFile(f"{path} is damaged: it is smaller than its tensors")
    return index, header


def _first_bytes(path: str | Path) -> bytes:
    """The part of a safetensors file that precedes its tensors."""
    with open_regular(path) as file:
        size = file.read(8)
        return size + file.read(min(int.from_bytes(size, "little"), _MAX_HEADER))


def check_run_format(folder: Path) -> None:
    """Check that the files in a run directory have the format of this version.

    Call it when another file of the directory cannot be parsed: the recipe of an older version has other keys, and the
    version of fromnoise that wrote it is known from the header of the model or of a state.

    Raises:
        OtherFormat: they were written by a version with another file format.
    """
    for path in (folder / "model.safetensors", *sorted(folder.glob("state/*.safetensors"), reverse=True)):
        try:
            header = read_header(path)
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
        raise DamagedFile(
            f"{path} holds weights but was not written by fromnoise: convert it by fromnoise import, or name a run "
            "directory"
        )
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
