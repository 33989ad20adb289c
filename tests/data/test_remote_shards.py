"""Shards in an object store: fetched whole or in parts, the cache and its limit, errors of the store."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from shard_files import all_pixels, first_images, random_images, same_data, write_shards

from fromnoise.data import load, open_source
from fromnoise.data.shards import object_folder, remote
from fromnoise.data.shards.cache import ShardCache
from fromnoise.data.shards.pack import PackSettings, pack
from fromnoise.data.spec import open_splits, parse_spec
from fromnoise.utils.errors import UserError

Upload = Callable[[Path], str]


@pytest.fixture
def upload(monkeypatch: pytest.MonkeyPatch) -> Upload:
    """Copies a folder into a store in memory, and returns its address."""
    monkeypatch.setattr(object_folder, "_FIRST_PAUSE", 0.001)
    files = fsspec.filesystem("memory")
    files.store.clear()

    def copy(folder: Path) -> str:
        for path in folder.iterdir():
            files.pipe_file(f"/bucket/{path.name}", path.read_bytes())
        return "memory://bucket"

    return copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A packed set of several shards."""
    np.savez(tmp_path / "x.npz", images=random_images(30), labels=np.arange(30) % 3)
    out = tmp_path / "out"
    pack(open_splits(str(tmp_path / "x.npz")), out, PackSettings(shard_bytes=10_000), lambda line: None)
    return out


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """The calls of a method of the store."""
    calls: list[Any] = []
    method = getattr(MemoryFileSystem, name)

    def counting(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(args)
        return method(self, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, name, counting)
    return calls


@pytest.mark.parametrize("limit", ["1", "0"])
def test_remote_shards_are_the_local_ones(
    folder: Path, upload: Upload, limit: str, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """Fetched whole into the cache, or only the parts that a batch needs: the same data in the same order."""
    monkeypatch.setenv("FROMNOISE_CACHE_GB", limit)
    url = upload(folder)
    expected = load(str(folder), log=lambda line: None)
    streamed = load(url, memory_limit=0, log=lines.append)
    assert ("fetched whole" if limit == "1" else "read one by one") in lines[0]
    assert same_data(streamed, expected) and same_data(load(url, log=lines.append), expected)
    ranks = [first_images(streamed, 4, 2, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat(ranks, 1), first_images(expected, 4, 6))
    kept = list((Path(os.environ["FROMNOISE_CACHE"]) / "shards").iterdir())
    assert len(kept) == (len(list(folder.glob("*.tar"))) if limit == "1" else 0)


def test_store_without_parts(folder: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers with the whole file serves sets that fit in the cache; for larger ones the line says so."""
    url = upload(folder)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, path, start=None, end=None: bytes(10**5))
    assert len(load(url, log=lambda line: None).train) == 28
    monkeypatch.setenv("FROMNOISE_CACHE_GB", "0")
    with pytest.raises(UserError, match="cannot be read in parts.*FROMNOISE_CACHE_GB"):
        load(url, log=lambda line: None)


def test_parts_of_a_batch_are_fetched_together(folder: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request to the store a batch, not one an image."""
    monkeypatch.setenv("FROMNOISE_CACHE_GB", "0")
    data = load(upload(folder), memory_limit=0, log=lambda line: None)
    calls = counted(monkeypatch, "cat_ranges")
    data.train.get(torch.tensor([3, 20, 11, 7]))
    assert len(calls) == 1 and len(calls[0][0]) <= 4


def test_a_shard_is_fetched_once(folder: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    """By any number of threads, and not again by the next run."""
    url = upload(folder)
    opened = counted(monkeypatch, "_open")
    source = open_source(url)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: source.read(i % 30), range(120)))
    shards = [args[0] for args in opened if args[0].endswith(".tar")]
    assert len(shards) == len(set(shards)) == len(list(folder.glob("*.tar")))
    again = open_source(url)
    again.read(0)
    assert len([args[0] for args in opened if args[0].endswith(".tar")]) == len(shards)


def test_sets_without_a_list(tmp_path: Path, upload: Upload) -> None:
    """A folder of .tar files, a pattern, a single shard; the index is made here, once."""
    write_shards(tmp_path / "set", random_images(12), [i % 2 for i in range(12)])
    url = upload(tmp_path / "set")
    expected = open_source(str(tmp_path / "set"))
    for spec in (url, f"{url}/part-*.tar", f"{url}/part-{{000000..000002}}.tar"):
        found = open_source(spec)
        assert [found.name(i) for i in range(12)] == [expected.name(i) for i in range(12)]
        assert np.array_equal(found.label_codes(), expected.label_codes())
    assert len(open_source(f"{url}/part-000001.tar")) == 4


def test_missing_and_truncated_shards_are_named(folder: Path, upload: Upload, lines: list[str]) -> None:
    """As on the disk: refused, or left out by choice."""
    url = upload(folder)
    files = fsspec.filesystem("memory")
    files.rm_file("/bucket/shard-000001.tar")
    files.pipe_file("/bucket/shard-000002.tar", files.cat_file("/bucket/shard-000002.tar")[:-512])
    with pytest.raises(UserError, match=r"2 shards.*shard-000001.tar \(No such.*shard-000002.tar \(it has"):
        open_splits(url)
    assert len(open_source(url, log=lines.append, skip_damaged=True)) < 30
    assert any("left out 2 shards" in line for line in lines)


def test_another_digest_stops_the_run(folder: Path, upload: Upload) -> None:
    """A shard of the right size with other content is not used."""
    url = upload(folder)
    files = fsspec.filesystem("memory")
    content = bytearray(files.cat_file("/bucket/shard-000001.tar"))
    content[700] ^= 1
    files.pipe_file("/bucket/shard-000001.tar", bytes(content))
    source = open_source(url)
    with pytest.raises(UserError, match=r"shard-000001.tar': it has another digest"):
        for i in range(30):
            source.read(i)


@pytest.mark.parametrize("limit", ["1", "0"])
def test_store_that_fails_now_and_then(
    folder: Path, upload: Upload, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are tried again; a store that stays away ends the run in one line, and no image is left out."""
    monkeypatch.setenv("FROMNOISE_CACHE_GB", limit)
    url = upload(folder)
    name = "_open" if limit == "1" else "cat_file"
    method, failures, away = getattr(MemoryFileSystem, name), Counter(), []

    def failing(self: Any, *args: Any, **options: Any) -> Any:
        failures[args] += 1
        if failures[args] % 3 or away:
            raise TimeoutError("the store is busy")
        return method(self, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, name, failing)
    data = load(url, memory_limit=0, log=lambda line: None)
    assert torch.equal(all_pixels(data.train), all_pixels(load(str(folder), log=lambda line: None).train))
    away.append(True)
    for path in (Path(os.environ["FROMNOISE_CACHE"]) / "shards").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="the store is busy; check the connection"):
        load(url, memory_limit=0, log=lambda line: None)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("memory://bucket/none", "no shards"),
        ("memory://bucket/none.tar", "none.tar"),
        ("memory://bucket/x.zip", "download"),
        ("memory://bucket/x.tar.gz", "compressed"),
        ("zip://x.tar::memory://bucket/x.zip", "chain"),
        ("nothing://bucket/set", "Protocol not known"),
        ("memory://bucket/x-{5..3}.tar", "range"),
    ],
)
def test_wrong_addresses(upload: Upload, spec: str, words: str) -> None:
    """One line each."""
    with pytest.raises(UserError, match=words) as error:
        open_splits(spec)
    assert "\n" not in str(error.value)


def test_splits_and_ports_of_addresses() -> None:
    """A port is not a split."""
    assert parse_spec("http://host:8000") == ("http://host:8000", None)
    assert parse_spec("http://host:8000:train") == ("http://host:8000", "train")
    assert parse_spec("s3://bucket/set:train") == ("s3://bucket/set", "train")
    assert parse_spec("s3://bucket/x-{0..1}.tar") == ("s3://bucket/x-{0..1}.tar", None)


def test_limit_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used files are removed first, before a new one is fetched."""
    monkeypatch.setenv("FROMNOISE_CACHE_GB", str(250 / 2**30))
    cache, written = ShardCache(), []

    def get(name: str) -> None:
        time.sleep(0.01)

        def fetch(path: Path) -> None:
            written.append(name)
            path.write_bytes(bytes(100))

        with cache.open(name, 100, fetch) as file:
            assert file.read() == bytes(100)

    for name in ("a", "b", "a", "c", "a"):
        get(name)
    assert written == ["a", "b", "c"]
    get("b")
    assert written == ["a", "b", "c", "b"]
    files = list((Path(os.environ["FROMNOISE_CACHE"]) / "shards").iterdir())
    assert len(files) == 2 and all(f.stat().st_size == 100 for f in files)
    assert cache.room(250) and not cache.room(251)


def test_interrupted_fetch_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is there whole or not at all."""
    cache = ShardCache()

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.open("a", 100, fail)
    assert list((Path(os.environ["FROMNOISE_CACHE"]) / "shards").iterdir()) == []


@pytest.mark.parametrize("text", ["-1", "x", "nan"])
def test_wrong_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line."""
    monkeypatch.setenv("FROMNOISE_CACHE_GB", text)
    with pytest.raises(UserError, match="FROMNOISE_CACHE_GB"):
        ShardCache()


def test_parts_that_lie_close_are_one_request() -> None:
    """Every part is inside of its group, and groups are neither far apart nor large."""
    parts = [(0, 0, 10), (0, 100, 10), (0, 10**6, 5), (1, 0, 7), (0, 5, 3)]
    groups = remote._merged(parts)
    assert [g[:3] for g in groups] == [(0, 0, 110), (0, 10**6, 10**6 + 5), (1, 0, 7)]
    assert sorted((k, *part) for k, _, _, inside in groups for part in inside) == sorted(parts)
