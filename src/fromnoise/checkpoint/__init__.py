"""Checkpoints: one safetensors file with the weights, and a JSON header from which the model is rebuilt.

Loading executes nothing that the file contains.

The header has a digest of itself and of the tensors, so that a truncated or changed file is detected. Files are written
under a temporary name, flushed to the disk and renamed, so that there is a complete file at any time.
"""

from __future__ import annotations

from fromnoise.checkpoint.header import check_numbers, model_header, parse_header
from fromnoise.checkpoint.model_file import (
    Loaded,
    LoadedModel,
    check_fit,
    load_autoencoder,
    load_model,
    load_trainable,
    rebuild,
    save_model,
    save_tuned,
)
from fromnoise.checkpoint.state_file import read_state, shard_folder
from fromnoise.checkpoint.tensor_file import (
    FORMAT,
    DamagedFile,
    OtherFormat,
    check_run_format,
    read,
    read_header,
    read_index,
    serialize,
    write,
)

__all__ = [
    "FORMAT",
    "DamagedFile",
    "Loaded",
    "LoadedModel",
    "OtherFormat",
    "check_fit",
    "check_numbers",
    "check_run_format",
    "load_autoencoder",
    "load_model",
    "load_trainable",
    "model_header",
    "parse_header",
    "read",
    "read_header",
    "read_index",
    "read_state",
    "rebuild",
    "save_model",
    "save_tuned",
    "serialize",
    "shard_folder",
    "write",
]
