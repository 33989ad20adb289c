"""Folders and archives of pictures: what is a picture, a class, a split."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fromnoise.data import Source, open_source
from fromnoise.data.spec import open_parts
from fromnoise.utils.errors import UserError

Writer = Callable[..., list[np.ndarray]]
Opener = Callable[..., Source]
Log = Callable[[str], None]


def pack(folder: Path, path: Path) -> Path:
    """Zip a folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture(params=["folder", "zip"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Open a folder as it is, or zipped."""

    def open_(folder: Path, split: str | None = None, log: Log = lambda line: None) -> Source:
        path = folder if request.param == "folder" else pack(folder, tmp_path / "packed.zip")
        return open_source(str(path), split, log)

    return open_


def contents(source: Source) -> dict[str, tuple[str | None, int]]:
    """Name -> class name and file size."""
    found = {}
    for i in range(len(source)):
        label = source.label(i)
        found[source.name(i)] = (None if label is None else (source.class_names or ())[label], source.size(i))
    return found


def test_a_folder_of_pictures(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """All of them, in the order of their names (DD#57, pytorch-ddpm#10: custom data without editing code)."""
    names = ["b.png", "a.bmp", "c.PNG", "deep/er/d.tiff"]
    arrays = write(tmp_path / "set", names)
    source = opened(tmp_path / "set")
    assert [source.name(i) for i in range(4)] == sorted(names)
    for i, name in enumerate(sorted(names)):
        assert np.array_equal(np.asarray(source.read(i)), arrays[names.index(name)])
        assert source.size(i) == (tmp_path / "set" / name).stat().st_size


def test_sub_folders_are_classes(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """The first level is the class, in sorted order, however deep the picture lies."""
    write(tmp_path / "set", ["dog/1.png", "cat/x/2.png", "ant/3.png", "dog/y/z/4.png"])
    source = opened(tmp_path / "set")
    assert source.class_names == ("ant", "cat", "dog")
    assert [(n, c) for n, (c, _) in contents(source).items()] == [
        ("ant/3.png", "ant"),
        ("cat/x/2.png", "cat"),
        ("dog/1.png", "dog"),
        ("dog/y/z/4.png", "dog"),
    ]


def test_splits_and_then_classes(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """Folders named train, val, test are splits, whatever their case; all splits number the classes alike."""
    write(tmp_path / "set", ["Train/cat/1.png", "Train/dog/2.png", "val/dog/3.png", "test/eel/4.png"])
    assert contents(opened(tmp_path / "set", "train")).keys() == {"Train/cat/1.png", "Train/dog/2.png"}
    for split, expected in (("validation", "dog"), ("val", "dog"), ("test", "eel")):
        source = opened(tmp_path / "set", split)
        assert source.class_names == ("cat", "dog", "eel")
        assert [c for c, _ in contents(source).values()] == [expected]
    everything = opened(tmp_path / "set", "all")
    assert [c for c, _ in contents(everything).values()] == ["cat", "dog", "dog", "eel"]


def test_a_class_may_be_called_train(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """Among cars and ships, train is a class."""
    write(tmp_path / "set", ["train/1.png", "car/2.png", "ship/3.png"])
    assert opened(tmp_path / "set").class_names == ("car", "ship", "train")


def test_a_split_without_classes(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """A flat test folder, as in competitions, has no labels; the others keep theirs."""
    write(tmp_path / "set", ["train/a/1.png", "train/b/2.png", "test/3.png"])
    assert {c for c, _ in contents(opened(tmp_path / "set", "train")).values()} == {"a", "b"}
    assert {c for c, _ in contents(opened(tmp_path / "set", "test")).values()} == {None}


def test_one_class_is_no_class(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """Pictures in one sub-folder are pictures, and a folder around everything says nothing."""
    write(tmp_path / "set", ["images/1.png", "images/2.png"])
    assert opened(tmp_path / "set").class_names is None
    write(tmp_path / "two", ["around/a/1.png", "around/b/2.png"])
    assert opened(tmp_path / "two").class_names == ("a", "b")


def test_pictures_beside_the_splits_are_named(tmp_path: Path, write: Writer, opened: Opener, lines: list[str]) -> None:
    """A preview beside train/ and test/ is left out, and the log says so."""
    write(tmp_path / "set", ["preview.png", "train/a/1.png", "test/a/2.png"])
    assert len(opened(tmp_path / "set", "train", lines.append)) == 1
    assert any("preview.png" in line for line in lines)


def test_hidden_files_are_not_pictures(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """What file managers and archivers leave behind is not read."""
    write(tmp_path / "set", ["1.png", ".thumb.png", "__MACOSX/._1.png", ".cache/2.png"])
    assert contents(opened(tmp_path / "set")).keys() == {"1.png"}


def test_links_are_followed_once(tmp_path: Path, write: Writer) -> None:
    """A linked class folder counts; a link to the folder above does not go round for ever."""
    write(tmp_path / "elsewhere", ["1.png"])
    write(tmp_path / "set", ["a/2.png"])
    try:
        (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set")
    except OSError:
        pytest.skip("no links here")
    assert contents(open_source(str(tmp_path / "set"))).keys() == {"a/2.png", "b/1.png"}


def test_a_single_picture_is_a_set(tmp_path: Path, write: Writer) -> None:
    """A path to one file."""
    write(tmp_path, ["one.png", "two.png"])
    assert contents(open_source(str(tmp_path / "one.png"))).keys() == {"one.png"}


def test_names_do_not_say_where_the_set_lies(tmp_path: Path, write: Writer) -> None:
    """The same set in two places has the same names, on which the fingerprint rests."""
    for place in ("here", "there"):
        write(tmp_path / place, ["a/1.png", "b/2.png"])
    here, there = (contents(open_source(str(tmp_path / place))) for place in ("here", "there"))
    assert here == there


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not an archive", b"plain text"])
def test_a_broken_archive(tmp_path: Path, content: bytes) -> None:
    """Named as such, in one line."""
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a whole .zip") as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


def test_an_archive_of_texts_and_an_empty_one(tmp_path: Path) -> None:
    """What was found is said."""
    for name, files, told in (("a", ["x.txt", "y.txt", "z.md"], "2 .txt, 1 .md"), ("b", [], "empty")):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for file in files:
                archive.writestr(file, "words")
        with pytest.raises(UserError, match=told):
            open_source(str(tmp_path / f"{name}.zip"))


def test_an_archive_is_read_by_many_threads(tmp_path: Path, write: Writer) -> None:
    """Every picture comes out whole."""
    from concurrent.futures import ThreadPoolExecutor

    names = [f"{i:02d}.png" for i in range(40)]
    arrays = write(tmp_path / "set", names)
    source = open_source(str(pack(tmp_path / "set", tmp_path / "x.zip")))
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: np.asarray(source.read(i)), list(range(40)) * 3))
    assert all(np.array_equal(a, b) for a, b in zip(got, arrays * 3, strict=True))


def test_splits_come_in_their_usual_order(tmp_path: Path, write: Writer) -> None:
    """train, validation, test, whatever the alphabet says."""
    write(tmp_path, ["test/1.png", "val/2.png", "train/3.png"])
    assert list(open_parts(str(tmp_path))) == ["train", "validation", "test"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path, write: Writer) -> None:
    """One line with the path, and no traceback."""
    write(tmp_path / "set", ["1.png"])
    (tmp_path / "set").chmod(0)
    try:
        with pytest.raises(UserError, match=r"cannot read .*set.*[Pp]ermission"):
            open_source(str(tmp_path / "set"))
    finally:
        (tmp_path / "set").chmod(0o755)


def test_a_sub_folder_that_may_not_be_listed(tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, told by the system at any depth (simulated, so that it is tested for root too)."""
    write(tmp_path / "set", ["a/1.png", "b/2.png"])
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="Permission denied") as caught:
        open_source(str(tmp_path / "set"))
    assert "\n" not in str(caught.value) and str(tmp_path / "set" / "b") in str(caught.value)
