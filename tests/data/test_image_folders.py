"""Folders and .zip archives of images: which files are images, classes and splits."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fromnoise.data import Source, open_source
from fromnoise.data.spec import open_splits
from fromnoise.utils.errors import UserError

Writer = Callable[..., list[np.ndarray]]
Opener = Callable[..., Source]
Log = Callable[[str], None]


def pack(folder: Path, path: Path) -> Path:
    """Pack a folder into a .zip file."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture(params=["folder", "zip"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Open a folder as it is, or packed into a .zip file."""

    def open_(folder: Path, split: str | None = None, log: Log = lambda line: None) -> Source:
        path = folder if request.param == "folder" else pack(folder, tmp_path / "packed.zip")
        return open_source(str(path), split, log)

    return open_


def contents(source: Source) -> dict[str, tuple[str | None, int]]:
    """Class name and file size of each image, by its name."""
    found = {}
    for i in range(len(source)):
        label = source.label(i)
        found[source.name(i)] = (None if label is None else (source.class_names or ())[label], source.file_size(i))
    return found


def test_flat_folder(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """All images, sorted by name (DD#57, pytorch-ddpm#10: custom data without editing code)."""
    names = ["b.png", "a.bmp", "c.PNG", "deep/er/d.tiff"]
    arrays = write(tmp_path / "set", names)
    source = opened(tmp_path / "set")
    assert [source.name(i) for i in range(4)] == sorted(names)
    for i, name in enumerate(sorted(names)):
        assert np.array_equal(np.asarray(source.read(i)), arrays[names.index(name)])
        assert source.file_size(i) == (tmp_path / "set" / name).stat().st_size


def test_sub_folders_are_classes(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """The first level of folders is the class, at any depth of the image; classes are sorted."""
    write(tmp_path / "set", ["dog/1.png", "cat/x/2.png", "ant/3.png", "dog/y/z/4.png"])
    source = opened(tmp_path / "set")
    assert source.class_names == ("ant", "cat", "dog")
    assert [(n, c) for n, (c, _) in contents(source).items()] == [
        ("ant/3.png", "ant"),
        ("cat/x/2.png", "cat"),
        ("dog/1.png", "dog"),
        ("dog/y/z/4.png", "dog"),
    ]


def test_split_folders_with_class_folders(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """Folders named train, val and test are splits, in any case; all splits share the class indices."""
    write(tmp_path / "set", ["Train/cat/1.png", "Train/dog/2.png", "val/dog/3.png", "test/eel/4.png"])
    assert contents(opened(tmp_path / "set", "train")).keys() == {"Train/cat/1.png", "Train/dog/2.png"}
    for split, expected in (("validation", "dog"), ("val", "dog"), ("test", "eel")):
        source = opened(tmp_path / "set", split)
        assert source.class_names == ("cat", "dog", "eel")
        assert [c for c, _ in contents(source).values()] == [expected]
    everything = opened(tmp_path / "set", "all")
    assert [c for c, _ in contents(everything).values()] == ["cat", "dog", "dog", "eel"]


def test_class_named_train(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """Beside folders car and ship, a folder train is a class."""
    write(tmp_path / "set", ["train/1.png", "car/2.png", "ship/3.png"])
    assert opened(tmp_path / "set").class_names == ("car", "ship", "train")


def test_split_without_classes(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """A flat test folder, as in competitions, has no labels; the other splits keep theirs."""
    write(tmp_path / "set", ["train/a/1.png", "train/b/2.png", "test/3.png"])
    assert {c for c, _ in contents(opened(tmp_path / "set", "train")).values()} == {"a", "b"}
    assert {c for c, _ in contents(opened(tmp_path / "set", "test")).values()} == {None}


def test_single_folder_is_not_a_class(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """A folder that contains all images is not a class; the folders below it can be."""
    write(tmp_path / "set", ["images/1.png", "images/2.png"])
    assert opened(tmp_path / "set").class_names is None
    write(tmp_path / "two", ["around/a/1.png", "around/b/2.png"])
    assert opened(tmp_path / "two").class_names == ("a", "b")


def test_images_beside_split_folders(tmp_path: Path, write: Writer, opened: Opener, lines: list[str]) -> None:
    """An image beside train/ and test/ is left out, and the log names it."""
    write(tmp_path / "set", ["preview.png", "train/a/1.png", "test/a/2.png"])
    assert len(opened(tmp_path / "set", "train", lines.append)) == 1
    assert any("preview.png" in line for line in lines)


def test_hidden_files_are_ignored(tmp_path: Path, write: Writer, opened: Opener) -> None:
    """Files that file managers and archivers create are not read."""
    write(tmp_path / "set", ["1.png", ".thumb.png", "__MACOSX/._1.png", ".cache/2.png"])
    assert contents(opened(tmp_path / "set")).keys() == {"1.png"}


def test_links_are_followed_once(tmp_path: Path, write: Writer) -> None:
    """A linked class folder is read; a link to a parent folder does not recurse."""
    write(tmp_path / "elsewhere", ["1.png"])
    write(tmp_path / "set", ["a/2.png"])
    try:
        (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set")
    except OSError:
        pytest.skip("the file system has no links")
    assert contents(open_source(str(tmp_path / "set"))).keys() == {"a/2.png", "b/1.png"}


def test_single_image_file(tmp_path: Path, write: Writer) -> None:
    """The path of one image is a data set of one image."""
    write(tmp_path, ["one.png", "two.png"])
    assert contents(open_source(str(tmp_path / "one.png"))).keys() == {"one.png"}


def test_names_are_relative_to_the_root(tmp_path: Path, write: Writer) -> None:
    """The same data in two folders have the same names, on which the fingerprint depends."""
    for folder in ("first", "second"):
        write(tmp_path / folder, ["a/1.png", "b/2.png"])
    first, second = (contents(open_source(str(tmp_path / folder))) for folder in ("first", "second"))
    assert first == second


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not an archive", b"plain text"])
def test_damaged_archive(tmp_path: Path, content: bytes) -> None:
    """The error names the file in one line."""
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a .zip file") as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


def test_archive_without_images(tmp_path: Path) -> None:
    """The error says what was found."""
    for name, files, message in (("a", ["x.txt", "y.txt", "z.md"], "2 .txt, 1 .md"), ("b", [], "empty")):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for file in files:
                archive.writestr(file, "words")
        with pytest.raises(UserError, match=message):
            open_source(str(tmp_path / f"{name}.zip"))


def test_archive_read_by_several_threads(tmp_path: Path, write: Writer) -> None:
    """Every image is read completely."""
    from concurrent.futures import ThreadPoolExecutor

    names = [f"{i:02d}.png" for i in range(40)]
    arrays = write(tmp_path / "set", names)
    source = open_source(str(pack(tmp_path / "set", tmp_path / "x.zip")))
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: np.asarray(source.read(i)), list(range(40)) * 3))
    assert all(np.array_equal(a, b) for a, b in zip(got, arrays * 3, strict=True))


def test_order_of_splits(tmp_path: Path, write: Writer) -> None:
    """train, validation, test, and not the alphabetical order."""
    write(tmp_path, ["test/1.png", "val/2.png", "train/3.png"])
    assert list(open_splits(str(tmp_path))) == ["train", "validation", "test"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can read everything")
def test_unreadable_folder(tmp_path: Path, write: Writer) -> None:
    """The error is one line with the path."""
    write(tmp_path / "set", ["1.png"])
    (tmp_path / "set").chmod(0)
    try:
        with pytest.raises(UserError, match=r"cannot read .*set.*[Pp]ermission"):
            open_source(str(tmp_path / "set"))
    finally:
        (tmp_path / "set").chmod(0o755)


def test_unreadable_sub_folder(tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same at any depth (simulated, so that it is also tested as root)."""
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
