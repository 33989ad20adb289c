"""Pickles (.pt, .pth, .bin, .ckpt), which ``fromnoise import`` alone reads, with ``weights_only=True``."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import check_regular, check_size, decoding, limits, open_regular

NOTICE = (
    "{path} is a pickle: torch reads it with weights_only=True, which makes tensors, numbers, text and containers and "
    "calls nothing else that the file names"
)
"""Said before a pickle is read."""
_SAVE = "Save the weights alone with the program that wrote it: torch.save(model.state_dict(), PATH)"
_SAVE_EDM = (
    'Save the weights alone, in the folder of NVlabs/edm: python -c "import pickle, torch; '
    "torch.save(pickle.load(open('{path}', 'rb'))['ema'].state_dict(), '{out}')\""
)


def is_pickle(path: str | Path) -> bool:
    """Whether a path is a file that begins like one of ``torch.save``; it is not opened as a pickle."""
    if not Path(path).is_file():
        return False
    try:
        with open_regular(path) as file:
            start = file.read(9)
        return (start[:2] == b"PK" and _is_archive(path)) or (start[0:1] == b"\x80" and start[8:9] != b"{")
    except (UserError, OSError):
        return False


def _is_archive(path: str | Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except Exception:  # a damaged archive can make the parser raise anything
        return False


def read_pickle(path: str | Path) -> Any:
    """What ``torch.save`` wrote, if it holds nothing but tensors, numbers, text and containers of them.

    Raises:
        UserError: it calls anything else, is damaged, or is larger than the limit.
    """
    limit = limits().checkpoint_bytes
    check_regular(path, limit)
    with decoding(path, "a pickle", "download it again"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise UserError(f"{path} is a compressed archive, which torch.save does not write: nothing was read")
            check_size(path, sum(member.file_size for member in members), limit)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the pickle's protocol
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            if "Weights only" not in str(error):
                raise
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            calls = f"calls {found.group(1)}" if found else "may call anything"
            remedy = _SAVE
            if found and found.group(1).startswith(("torch_utils.", "dnnlib.")):
                remedy = _SAVE_EDM.format(path=path, out=Path(path).with_suffix(".pt"))
            raise UserError(f"{path} is a pickle that {calls}: nothing was read. {remedy}") from None
