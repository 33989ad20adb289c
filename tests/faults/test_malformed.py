"""Malformed content of every format is read as far as possible, or refused in one line (review C, Low)."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from encoded import png, refused, three_images
from malformed_inputs import (
    COMMAND_LINE_VALUES,
    IDX_FILES,
    LABEL_ARRAYS,
    LABEL_TABLES,
    PARQUET_METADATA,
    RECIPE_FILES,
)

from fromnoise import config as recipes
from fromnoise.cli.train import parse_value
from fromnoise.data import load
from fromnoise.utils.errors import UserError

images = pytest.fixture(three_images)


@pytest.mark.parametrize(("name", "content"), LABEL_TABLES)
def test_low_label_tables(images, name, content):
    """Whatever a table holds, images are loaded or one line names the table."""
    (images / name).write_text(content)
    try:
        load(str(images))
    except UserError as error:
        assert name in str(error) and "\n" not in str(error) and len(str(error)) < 500


@pytest.mark.parametrize("labels", LABEL_ARRAYS)
def test_low_labels_in_arrays(tmp_path, labels):
    """Bytes that are not UTF-8, large numbers, control characters and booleans."""
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8), labels=labels)
    data = load(str(tmp_path / "x.npz"))
    assert data.class_names is not None and all(name.isprintable() for name in data.class_names)


@pytest.mark.parametrize("content", IDX_FILES)
def test_low_idx_headers(tmp_path, content):
    """Ranks and sizes that no array has."""
    (tmp_path / "x-images-idx3-ubyte").write_bytes(content)
    refused(lambda: load(str(tmp_path / "x-images-idx3-ubyte")))


@pytest.mark.parametrize("meta", PARQUET_METADATA)
def test_low_metadata_of_parquet(tmp_path, meta):
    """Damaged metadata count as none."""
    table = pa.table({"image": [png()] * 3}).replace_schema_metadata({b"huggingface": meta})
    pq.write_table(table, tmp_path / "x.parquet")
    assert len(load(str(tmp_path / "x.parquet")).train) == 2


def test_low_parquet_columns_of_other_types(tmp_path):
    """Labels that are lists, and images that are text or numbers."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": 5}}
    meta = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    for i, table in enumerate(
        [
            pa.table({"image": [1, 2, 3], "label": [0, 1, 0]}),
            pa.table({"image": ["a", "b", "c"], "label": [0, 1, 0]}),
            pa.table({"image": [png()] * 3, "label": [[0], [1], [2]]}),
            pa.table({"image": [png()] * 3, "label": ["a", None, "b"]}),
        ]
    ):
        path = tmp_path / f"{i}.parquet"
        pq.write_table(table.replace_schema_metadata(meta), path)
        try:
            load(str(path))
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("damage", ["names", "encrypted", "central"])
def test_low_zip_archives(tmp_path, damage):
    """Names that are not UTF-8, encryption, and a damaged directory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("é/0.png", png())
    content = bytearray(buffer.getvalue())
    if damage == "names":
        content = content.replace("é".encode(), b"\xff\xff")
    if damage == "encrypted":
        for at in (content.index(b"PK\3\4") + 6, content.index(b"PK\1\2") + 8):
            content[at] |= 1
    if damage == "central":
        content[content.index(b"PK\1\2") + 10] = 99
    (tmp_path / "x.zip").write_bytes(content)
    refused(lambda: load(str(tmp_path / "x.zip")), "x.zip" if damage != "encrypted" else "encrypted")


@pytest.mark.parametrize("text", COMMAND_LINE_VALUES)
def test_low_values_on_the_command_line(text):
    """What is not a TOML value is a word."""
    parse_value(text)


@pytest.mark.parametrize("text", RECIPE_FILES)
def test_low_recipe_files(tmp_path, text):
    """One line that names the file."""
    (tmp_path / "x.toml").write_text(text)
    refused(lambda: recipes.load(str(tmp_path / "x.toml")), "x.toml")
    (tmp_path / "y.toml").write_bytes(b"name = '\xff'")
    refused(lambda: recipes.load(str(tmp_path / "y.toml")), "y.toml", "UTF-8")


def test_low_image_with_a_damaged_chunk(images):
    """A decoder's own errors become the reason why the image is left out."""
    good = (images / "0.png").read_bytes()
    data_at = good.index(b"IDAT")
    size = struct.unpack(">I", good[data_at - 4 : data_at])[0]
    body = zlib.compress(b"short")
    broken = good[: data_at - 4] + struct.pack(">I", len(body)) + b"IDAT" + body
    broken += struct.pack(">I", zlib.crc32(b"IDAT" + body)) + good[data_at + 4 + size + 4 :]
    (images / "bad.png").write_bytes(broken)
    lines: list[str] = []
    data = load(str(images), log=lines.append)
    assert data.skipped == 1 and any("bad.png" in line for line in lines)
    assert data.train.get(torch.tensor([0])).dtype == torch.uint8
