"""The data SPEC: names, paths and splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fromnoise.data import open_source
from fromnoise.data.spec import parse_spec
from fromnoise.utils.errors import UserError

Writer = Callable[..., list[np.ndarray]]


@pytest.mark.parametrize(
    ("spec", "name", "split"),
    [
        ("mnist", "mnist", None),
        ("mnist:test", "mnist", "test"),
        ("hub:owner/name", "hub:owner/name", None),
        ("hub:owner/name:train", "hub:owner/name", "train"),
        ("hub:owner/name/config:unlabeled", "hub:owner/name/config", "unlabeled"),
        ("hub:cifar10", "hub:cifar10", None),
        (r"C:\pictures\cats", r"C:\pictures\cats", None),
        (r"C:\pictures\cats:train", r"C:\pictures\cats", "train"),
        ("C:/pictures", "C:/pictures", None),
        ("D:/pictures/x.npz:all", "D:/pictures/x.npz", "all"),
        ("/some/where:val", "/some/where", "val"),
        ("./mnist", "./mnist", None),
    ],
)
def test_parse_spec(spec: str, name: str, split: str | None) -> None:
    """The colons of hub: and of drives are part of the name."""
    assert parse_spec(spec) == (name, split)


@pytest.mark.parametrize("spec", ["", ":test", "mnist:"])
def test_incomplete_spec(spec: str) -> None:
    """Neither data set nor split can be empty."""
    with pytest.raises(UserError, match="SPEC"):
        parse_spec(spec)


def test_path_with_a_colon(tmp_path: Path, write: Writer) -> None:
    """An existing folder is opened even if its name looks like a split."""
    try:
        write(tmp_path / "set:test", ["1.png"])
    except OSError:
        pytest.skip("the file system has no colons in names")
    assert len(open_source(f"{tmp_path}/set:test")) == 1


def test_folder_with_the_name_of_a_data_set(tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """``digits`` is the data set, ``./digits`` the folder."""
    write(tmp_path / "digits", ["1.png"])
    monkeypatch.chdir(tmp_path)
    assert len(open_source("digits")) == 1797 and len(open_source("./digits")) == 1


def test_home_folder(tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is expanded."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path / "cats", ["1.png"])
    assert len(open_source("~/cats")) == 1


@pytest.mark.parametrize(
    ("spec", "near"),
    [("mnst", "mnist"), ("fashion-mnist", "fashion_mnist"), ("MNIST", "mnist"), ("cifar", "cifar10")],
)
def test_misspelt_name(spec: str, near: str) -> None:
    """The error suggests the nearest name."""
    with pytest.raises(UserError, match=f"did you mean '{near}'") as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["no/such/folder", "/no/such.npz", "no/such:train"])
def test_missing_file(spec: str) -> None:
    """The error says what is missing and what can be named."""
    with pytest.raises(UserError, match="no such file.*digits") as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("split", "message"), [("tset", "did you mean 'test'"), ("val", "it has train, test")])
def test_unknown_split(tmp_path: Path, write: Writer, split: str, message: str) -> None:
    """The error lists the splits or suggests the nearest."""
    write(tmp_path, ["train/1.png", "test/2.png"])
    with pytest.raises(UserError, match=message):
        open_source(f"{tmp_path}:{split}")


def test_data_without_splits(tmp_path: Path, write: Writer) -> None:
    """``all`` is the whole data set; any other split is refused."""
    write(tmp_path, ["1.png", "2.png"])
    assert len(open_source(f"{tmp_path}:all")) == 2
    with pytest.raises(UserError, match="is not split"):
        open_source(f"{tmp_path}:test")


def test_unknown_format(tmp_path: Path) -> None:
    """The error lists the registered formats."""
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(UserError, match=r"none of the registered formats.*\.npz.*\.parquet"):
        open_source(str(tmp_path / "x.csv"))


def test_all_concatenates_the_splits(tmp_path: Path) -> None:
    """``all`` has every image once, with its own label and name."""
    arrays = {"x_train": np.zeros((3, 2, 2), np.uint8), "x_test": np.ones((2, 2, 2), np.uint8)}
    np.savez(tmp_path / "x.npz", allow_pickle=False, **arrays, y_train=np.array([0, 1, 2]), y_test=np.array([2, 0]))
    source = open_source(str(tmp_path / "x.npz"))
    assert [int(np.asarray(source.read(i))[0, 0]) for i in range(5)] == [0, 0, 0, 1, 1]
    assert [source.label(i) for i in range(len(source))] == [0, 1, 2, 2, 0]
    assert source.name(3) == "image 0 of x.npz (test)" and source.file_size(4) == 4
