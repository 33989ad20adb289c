"""Malformed content by format, for the tests and for the same on version 0.1."""

from __future__ import annotations

import struct

import numpy as np

LABEL_TABLES = [
    ("labels.json", "[" * 100_000),
    ("labels.json", '{"a.png": ' * 5000),
    ("labels.json", "[1, 2, 3]"),
    ("labels.json", "[]"),
    ("labels.json", "7"),
    ("labels.json", '{"labels": [[1]]}'),
    ("labels.json", '[{"file": "0.png", "label": [1]}, {"file": "1.png", "label": {"a": 2}}]'),
    ("labels.csv", "file,label\n0.png,--5\n1.png,2\n"),
    ("labels.csv", "file,label\n0.png," + "9" * 5000 + "\n1.png,2\n"),
    ("labels.csv", "file,label\n0.png,\0\n1.png,2\n"),
    ("labels.csv", 'file,label\n"0.png\n'),
    ("labels.csv", "file,label\n" + "x" * 200_000 + ",1\n"),
    ("labels.csv", "file,label\n0.png,1\n1.png,cat\n2.png,\u0661\n"),
    ("labels.csv", ""),
]
"""Name and text of a table beside three images."""

LABEL_ARRAYS = [
    np.array([b"\xff", b"a", b"b"]),
    np.array([0, 1, 2**63], dtype=np.uint64),
    np.array(["x", "\x1b[0m", "z"]),
    np.array([True, False, True]),
]
"""Labels of three images in an .npz."""

IDX_FILES = [
    struct.pack(">4B", 0, 0, 8, 0),
    struct.pack(">4B", 0, 0, 8, 255) + b"\0" * 1020,
    struct.pack(">4B3I", 0, 0, 8, 3, 0, 5, 5),
    struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 0),
    struct.pack(">4B70I", 0, 0, 8, 70, *[1] * 70) + b"\0",
]
"""Ranks and sizes that no array has."""

PARQUET_METADATA = [b"7", b"[]", b'{"info": 3}', b'{"info": {"features": [1]}}', b"[" * 100_000, b"{"]
"""Metadata of ``datasets`` in a parquet file."""

COMMAND_LINE_VALUES = ["[" * 100_000, "9" * 5000, "1\n[v]", "1\nv.x = 2", "\ud800", "{a = {b = 1}}", "'" * 7]
"""Values that are no TOML."""

RECIPE_FILES = ["a = " + "[" * 100_000, "a = " + "9" * 5000, "\0", "a = 'x"]
"""Texts of a .toml."""

SAFETENSORS_HEADERS = [
    '{"__metadata__": {"fromnoise": "[]"}}',
    '{"__metadata__": {"fromnoise": "' + "[" * 50_000 + '"}}',
    '{"__metadata__": 7}',
    '{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
    '{"a": {"dtype": "F32", "shape": [18446744073709551615], "data_offsets": [0, 4]}}',
    '{"a": ' * 50_000,
]
"""Metadata of other kinds, deep nesting, and dtypes that safetensors does not know."""

FEATURE_HEADERS = [{}, {"accuracy": "x"}, {"accuracy": None}, {"accuracy": [1]}]
"""Headers of a file of the feature cache."""

FORMULA = "=cmd|'/c calc'!A1"
"""A name that a spreadsheet would evaluate."""


def safetensors(header: str) -> bytes:
    """A file of this header and no tensors."""
    return len(header).to_bytes(8, "little") + header.encode()
