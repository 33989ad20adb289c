"""Parquet files in an object store and on a stand-in of the hub: the same data as from the disk, fetched as needed."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from shard_files import first_images, random_images, same_data

from fromnoise.data import load, open_source
from fromnoise.data.shards import object_folder
from fromnoise.data.shards.pack import PackSettings, pack
from fromnoise.data.spec import open_splits
from fromnoise.utils.errors import UserError

ROWS, GROUP = 20, 4  # rows of a file, and of a row group


def png(image: np.ndarray) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def table(images: np.ndarray, labels: list[int], images_of_rows: list | None = None) -> bytes:
    """A parquet file of several row groups, as `datasets` writes them."""
    rows = images_of_rows or [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(images)]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": rows, "label": labels}), buffer, row_group_size=GROUP)
    return buffer.getvalue()


@pytest.fixture
def files() -> dict[str, bytes]:
    """Two files of training images and one of test images."""
    images = random_images(3 * ROWS)
    names = ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-0.parquet")
    return {
        name: table(images[k * ROWS : (k + 1) * ROWS], [i % 3 for i in range(ROWS)]) for k, name in enumerate(names)
    } | {"README.md": b"# a set"}


@pytest.fixture
def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """The same files on the disk."""
    (tmp_path / "set" / "data").mkdir(parents=True)
    for name, content in files.items():
        (tmp_path / "set" / name).write_bytes(content)
    return tmp_path / "set"


@pytest.fixture
def url(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a store in memory that holds them."""
    monkeypatch.setattr(object_folder, "_FIRST_PAUSE", 0.001)
    store = fsspec.filesystem("memory")
    store.store.clear()
    for name, content in files.items():
        store.pipe_file(f"/bucket/{name}", content)
    return "memory://bucket"


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened."""
    found: list[str] = []
    method = MemoryFileSystem._open

    def opened(self, path, *args, **options):
        found.append(path)
        return method(self, path, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "_open", opened)
    return found


def cached() -> list[Path]:
    """The row groups in the cache."""
    return [path for path in (Path(os.environ["FROMNOISE_CACHE"]) / "shards").iterdir() if path.is_file()]


@pytest.mark.parametrize("limit", ["1", "0"])
def test_same_data_as_from_the_disk(
    folder: Path, url: str, limit: str, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """Splits, classes, images and order on any number of processes, with a cache that holds the set or nothing."""
    monkeypatch.setenv("FROMNOISE_CACHE_GB", limit)
    expected, streamed = load(str(folder), log=lines.append), load(url, memory_limit=0, log=lines.append)
    assert any("3 parquet files" in line for line in lines)
    assert any("up to 4 images may be fetched for one: pack" in line for line in lines) == (limit == "0")
    assert same_data(streamed, expected) and len(streamed.held_out) == ROWS
    ranks = [first_images(streamed, 4, 2, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat(ranks, 1), first_images(expected, 4, 6))
    assert len(cached()) == 15 if limit == "1" else len(cached()) <= 8  # that are fetched at once


def test_only_what_is_needed_is_fetched(url: str, requested: list[str]) -> None:
    """A start reads footers and labels; a batch its row groups, once; the next run none of them."""
    source = open_source(f"{url}:train")
    assert len(source) == 2 * ROWS and source.label(4) == 1 and not cached()
    b"".join(source.identity())
    before = len(requested)
    source.prefetch([0, 1, 5, 21])
    assert len(requested) == before + 3 and len(cached()) == 3
    assert np.asarray(source.read(5)).shape == np.asarray(source.read(21)).shape
    assert source.file_size(1) == len(source.encoded(1)[1]) and source.encoded(1)[0] == ".png"
    again = open_source(f"{url}:train")
    after = len(requested)
    again.read(0)
    assert len(requested) == after
    assert source.name(5) == "row 1 of group 1 of data/train-00000-of-00002.parquet"


def test_packed_into_shards(folder: Path, url: str, tmp_path: Path) -> None:
    """By position, with labels; the cache need not hold the set."""
    pack(open_splits(url), tmp_path / "shards", PackSettings(shard_bytes=20_000), lambda line: None)
    quiet = {"log": lambda line: None}
    assert same_data(load(str(tmp_path / "shards"), **quiet), load(str(folder), **quiet))


def test_wrong_files_are_named(url: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is damaged, gone, or holds no images; a row that holds none is left out."""
    store = fsspec.filesystem("memory")
    name = "data/test-0.parquet"
    whole = files[name]
    damaged = whole[:-300] + bytes(292) + whole[-8:]
    for content in (damaged, b"text", b""):
        store.pipe_file(f"/bucket/{name}", content)
        with pytest.raises(UserError, match="data/test-0.parquet"):
            open_splits(url)
    store.pipe_file(f"/bucket/{name}", whole)
    with pytest.raises(UserError, match="nothing.parquet': No such file"):
        open_splits(f"{url}/data/nothing.parquet")
    rows = [None, {"bytes": None, "path": "/etc/passwd"}, *({"bytes": png(i), "path": ""} for i in random_images(4))]
    store.pipe_file("/bucket/one.parquet", table(np.empty(0), [0] * 6, rows))
    lines: list[str] = []
    found = load(f"{url}/one.parquet", log=lines.append)
    assert len(found.train) + len(found.held_out) == 4 and "left out 2 of 6 images" in "".join(lines)
    splits = open_splits(f"{url}/data/train-{{00000..00001}}-of-00002.parquet")
    store.rm("/bucket/data/train-00000-of-00002.parquet")
    with pytest.raises(UserError, match="it is gone; restore it"):
        splits["train"].read(0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """A stand-in of the hub on loopback."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "interop")
    from hub_server import Hub, Repository

    found = Hub()
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    found.repositories["me/set"] = Repository()
    yield found
    HfFileSystem.clear_instance_cache()
    found.close()
    sys.modules.pop("hub_server", None)


def test_a_set_of_the_hub(hub, files: dict[str, bytes], folder: Path) -> None:
    """``hf://datasets/owner/name``, whole or a split, by byte ranges."""
    hub.repositories["me/set"].commit(files)
    quiet = {"log": lambda line: None}
    data = load("hf://datasets/me/set", memory_limit=0, **quiet)
    assert same_data(data, load(str(folder), **quiet))
    assert any("resolve" in request for request in hub.requests)
    assert len(open_source("hf://datasets/me/set:test")) == ROWS
    with pytest.raises(UserError, match="hf://datasets/me/nothing"):
        open_splits("hf://datasets/me/nothing")
