"""The index of a folder with very many images: the same source as without, fast starts, and changes that are found."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from fromnoise.data import folder_index, image_tree, load, open_source
from fromnoise.data.folder_index import IndexedFolder, index_path
from fromnoise.data.spec import open_splits
from fromnoise.utils.errors import UserError

NAMES = [
    f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in ("b", "a", "b-c", "a/d") for i in range(3)
]


def age(root: Path) -> None:
    """Make the folders look as if they had not changed for an hour."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (time.time() - 3600, time.time() - 3600))


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Folders of five images are indexed, in a cache of this test."""
    monkeypatch.setattr(folder_index, "MANY_FILES", 5)
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(few, tmp_path: Path, write) -> Path:
    """A folder with splits and classes, indexed."""
    write(tmp_path / "set", NAMES)
    age(tmp_path / "set")
    open_splits(str(tmp_path / "set"))
    assert index_path(tmp_path / "set").exists()
    return tmp_path / "set"


@pytest.fixture
def no_listing(monkeypatch):
    """Nothing may be listed."""
    monkeypatch.setattr(os, "walk", lambda *a, **k: pytest.fail("the folder is listed"))


def described(splits) -> dict:
    """All that a source says of its images."""
    return {
        split: (
            source.class_names,
            source.label_codes().tolist(),
            [(source.name(i), source.label(i), source.file_size(i)) for i in range(len(source))],
            b"".join(source.identity()),
            [np.asarray(source.read(i)).tolist() for i in range(len(source))],
            [source.encoded(i) for i in range(len(source))],
        )
        for split, source in splits.items()
    }


@pytest.mark.parametrize(
    "names", [NAMES, [f"x/{i}.png" for i in range(6)], [f"{k}{i}.bmp" for k in "ba" for i in (1, 2, 3)]]
)
def test_same_source_as_without(few, tmp_path: Path, write, names: list[str], request, monkeypatch) -> None:
    """Names, order, classes, splits, sizes, fingerprint and pixels; the second time nothing is listed."""
    write(tmp_path / "set", names)
    age(tmp_path / "set")
    monkeypatch.setattr(folder_index, "MANY_FILES", 1000)
    expected = described(open_splits(str(tmp_path / "set")))
    monkeypatch.setattr(folder_index, "MANY_FILES", 5)
    lines: list[str] = []
    first = open_splits(str(tmp_path / "set"), lines.append)
    assert all(isinstance(source, IndexedFolder) for source in first.values()) and described(first) == expected
    assert any("indexing" in line for line in lines)
    request.getfixturevalue("no_listing")
    again = open_splits(str(tmp_path / "set"), pytest.fail)
    assert described(again) == expected


def test_a_start_asks_for_no_file(root: Path, no_listing, monkeypatch) -> None:
    """But for those that it decodes; the fingerprint comes from the index."""
    source, original, asked = open_source(f"{root}:train"), os.stat, []
    monkeypatch.setattr(os, "stat", lambda path, *a, **k: asked.append(str(path)) or original(path, *a, **k))
    b"".join(source.identity())
    source.label_codes()
    assert not [path for path in asked if path.endswith(".png")]


def test_changes_are_found(root: Path, write) -> None:
    """A new file, a removed one, a new folder, a renamed one: one line, and the new list."""
    for change in (
        lambda: write(root, ["train/a/new.png"]),
        lambda: (root / "test" / "b" / "0.png").unlink(),
        lambda: write(root, ["train/c/0.png"]),
        lambda: (root / "train" / "b").rename(root / "train" / "e"),
    ):
        change()
        lines: list[str] = []
        found = open_splits(str(root), lines.append)
        assert len([line for line in lines if "has changed since the folder was indexed" in line]) == 1
        paths = {f"{p.relative_to(root).as_posix()}" for p in root.rglob("*.png")}
        assert {source.name(i) for source in found.values() for i in range(len(source))} == paths
        age(root)
        open_splits(str(root))
        open_splits(str(root), pytest.fail)  # by the new index


def test_a_file_written_again_is_found_when_it_is_read(root: Path) -> None:
    """Its folder looks as before; one line that names the index."""
    path = root / "train" / "a" / "0.png"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="0.png' has changed since the folder was indexed: remove .*npz, and run"):
        load(str(root))


def test_a_damaged_index_is_one_line(root: Path) -> None:
    """And a new index."""
    path = index_path(root)
    whole = path.read_bytes()
    for content in (whole[:-100], b"", b"PK" + bytes(100)):
        path.write_bytes(content)
        lines: list[str] = []
        open_splits(str(root), lines.append)
        assert len([line for line in lines if "its index is not used" in line]) == 1
        assert len(path.read_bytes()) == len(whole)
    other = dict(np.load(path))
    np.savez(path, **(other | {"ends": other["ends"][:-1]}))
    lines = []
    open_splits(str(root), lines.append)
    assert "it is no index of a folder" in "".join(lines)


def test_a_folder_that_has_just_changed_is_not_indexed(few, tmp_path: Path, write) -> None:
    """A change in the same moment could be missed."""
    write(tmp_path / "set", NAMES)
    assert all(isinstance(source, IndexedFolder) for source in open_splits(str(tmp_path / "set")).values())
    assert not index_path(tmp_path / "set").exists()


def test_label_tables_and_small_folders_have_no_index(few, tmp_path: Path, write) -> None:
    """They are opened as before."""
    write(tmp_path / "small", ["0.png", "1.png"])
    write(tmp_path / "table", [f"{i}.png" for i in range(6)])
    (tmp_path / "table" / "labels.csv").write_text("file,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(6)))
    for name in ("small", "table"):
        age(tmp_path / name)
        assert isinstance(open_source(str(tmp_path / name)), image_tree.FolderSource)
        assert not index_path(tmp_path / name).exists()


def test_an_index_that_others_could_have_written_is_not_used(root: Path) -> None:
    """As of shards: the folder is listed, and a line says that the index is not kept."""
    index_path(root).parent.chmod(0o777)
    lines: list[str] = []
    found = open_splits(str(root), lines.append)
    assert sum(map(len, found.values())) == len(NAMES) and any("is not kept" in line for line in lines)
