"""Named data sets: where they are searched, and how they are downloaded."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fromnoise import registry
from fromnoise.data import load, open_source
from fromnoise.data.download import RemoteFile
from fromnoise.data.named.fashion_mnist import FashionMnist
from fromnoise.data.named.flowers102 import Flowers102
from fromnoise.data.named.flowers102_official import Flowers102Official
from fromnoise.data.named.mnist import mnist_files
from fromnoise.data.spec import open_splits
from fromnoise.utils.errors import UserError

Writer = Callable[..., list[np.ndarray]]

FILES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
DIGITS = np.random.default_rng(6).integers(0, 256, (12, 8, 8), dtype=np.uint8)
LABELS = (np.arange(12) % 10).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    """A gzipped IDX file."""
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


def write_mnist_files(folder: Path) -> tuple[str, ...]:
    """Write a small data set in the four files of MNIST; return their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [idx(a) for a in (DIGITS[:8], LABELS[:8], DIGITS[8:], LABELS[8:])]
    for name, content in zip(FILES, contents, strict=True):
        (folder / name).write_bytes(content)
    return tuple(hashlib.sha256(content).hexdigest() for content in contents)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which fashion_mnist is downloaded, after an address that does not respond."""
    folder = tmp_path / "net"
    digests = write_mnist_files(folder)
    folders = ((tmp_path / "down").as_uri() + "/", folder.as_uri() + "/")
    monkeypatch.setattr(FashionMnist, "files", mnist_files(folders, digests))
    monkeypatch.setattr(FashionMnist, "class_names", tuple(f"thing {k}" for k in range(10)))
    return folder


def test_fromnoise_data_is_searched_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$FROMNOISE_DATA/mnist is read in place; nothing is downloaded or written."""
    write_mnist_files(tmp_path / "data" / "mnist")
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    splits = open_splits("mnist")
    assert list(splits) == ["train", "test"] and [len(s) for s in splits.values()] == [8, 4]
    assert splits["train"].class_names == tuple("0123456789") and splits["test"].label(0) == LABELS[8]
    assert not (tmp_path / "cache").exists()


def test_download_into_the_cache(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    """The second address is tried after the first; files in the cache are not downloaded again."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    source = open_source("fashion_mnist:test", log=lines.append)
    assert np.array_equal(np.stack([np.asarray(source.read(i)) for i in range(4)]), DIGITS[8:])
    assert source.class_names is not None and source.class_names[3] == "thing 3"
    assert len([line for line in lines if "downloading" in line]) == 4
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["fashion_mnist"]
    for file in net.iterdir():
        file.unlink()
    lines.clear()
    assert len(open_source("fashion_mnist", log=lines.append)) == 12 and not lines


def test_other_content_than_expected_is_refused(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login page in place of the file gives one line, and the cache stays empty."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    (net / FILES[2]).write_bytes(b"<html>please log in</html>")
    with pytest.raises(UserError, match="other content than expected") as caught:
        open_source("fashion_mnist")
    assert "\n" not in str(caught.value) and list((tmp_path / "cache").iterdir()) == []


def test_error_without_network(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the files, the folder to put them into, and the environment variable."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    for file in net.iterdir():
        file.unlink()
    with pytest.raises(UserError) as caught:
        load("fashion_mnist")
    for part in (*FILES, str(tmp_path / "cache" / "fashion_mnist"), "FROMNOISE_DATA"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_in_the_cache_are_kept(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incomplete folder is completed, and its other files are kept."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    mine = tmp_path / "cache" / "fashion_mnist" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert len(open_source("fashion_mnist")) == 12 and mine.read_text() == "mine"


def test_unwritable_cache(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the environment variable for another folder."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="FROMNOISE_CACHE"):
        open_source("fashion_mnist")


def test_data_set_with_the_train_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the training images is held out."""
    write_mnist_files(tmp_path / "mnist")
    for name in FILES[2:]:
        (tmp_path / "mnist" / name).unlink()
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    data = load("mnist", holdout=0.25)
    assert (len(data.train), len(data.held_out)) == (6, 2)


def test_class_names_of_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 9 is truck even if the files have no names and no other class."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    (tmp_path / "cifar10").mkdir()
    for split, labels in (("train", [9, 9]), ("test", [3])):
        rows = [{"bytes": file.getvalue(), "path": None} for _ in labels]
        pq.write_table(pa.table({"img": rows, "label": labels}), tmp_path / "cifar10" / f"{split}-0.parquet")
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    train, test = open_source("cifar10:train"), open_source("cifar10:test")
    assert train.class_names is not None and train.class_names[train.label(0) or 0] == "truck"
    assert test.class_names is not None and test.class_names[test.label(0) or 0] == "cat"


@pytest.fixture
def flowers_server(tmp_path: Path) -> Path:
    """A folder with 40 images of two classes in the authors' files; images 1, 22 and 39 are training images."""
    scipy_io = pytest.importorskip("scipy.io")
    folder = tmp_path / "net"
    folder.mkdir()
    scipy_io.savemat(folder / "imagelabels.mat", {"labels": np.repeat([77, 3], 20)[None]})
    rest = [number for number in range(1, 41) if number not in (1, 22, 39, 8)]
    splits = {"trnid": np.array([[1, 22, 39]]), "valid": np.array([[8]]), "tstid": np.array([rest])}
    scipy_io.savemat(folder / "setid.mat", splits)
    with tarfile.open(folder / "102flowers.tgz", "w:gz") as archive:
        for number in range(1, 41):
            file = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), number * 5, dtype=np.uint8)).save(file, "JPEG")
            member = tarfile.TarInfo(f"jpg/image_{number:05d}.jpg")
            member.size = file.tell()
            archive.addfile(member, io.BytesIO(file.getvalue()))
    return folder


@pytest.mark.parametrize(
    ("dataset", "sizes"),
    [
        (Flowers102, {"train": 32, "validation": 4, "test": 4}),
        (Flowers102Official, {"train": 3, "validation": 1, "test": 36}),
    ],
)
def test_flowers102_is_unpacked_into_splits_and_classes(
    flowers_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Any, sizes: dict[str, int]
) -> None:
    """From the authors' files: each image once, with its class, in the split of the data set."""
    files = []
    for f in dataset.files:
        path = flowers_server / f.name
        files.append(RemoteFile(f.name, (path.as_uri(),), "md5:" + hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(dataset, "files", tuple(files))
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    splits = open_splits(dataset.name)
    assert {name: len(source) for name, source in splits.items()} == sizes
    numbers = {}
    for name, source in splits.items():
        for i in range(len(source)):
            number = int(source.name(i)[-9:-4])
            numbers[number] = name
            label = source.label(i)
            assert source.class_names == ("003", "077") and label is not None
            assert ("003", "077")[label] == ("077" if number <= 20 else "003")
            assert np.abs(np.asarray(source.read(i)).astype(int) - number * 5).max() <= 2
    assert numbers.keys() == set(range(1, 41))
    if dataset is Flowers102Official:
        assert {number for number, name in numbers.items() if name == "train"} == {1, 22, 39}
    assert not [*(tmp_path / "cache").rglob("*.tgz"), *(tmp_path / "cache").rglob("*.mat")]


def test_flowers102_from_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer) -> None:
    """flowers102_64.zip in $FROMNOISE_DATA, with folders split/class."""
    import zipfile

    write(tmp_path / "set", ["train/001/a.png", "train/002/b.png", "test/001/c.png"])
    with zipfile.ZipFile(tmp_path / "flowers102_64.zip", "w") as archive:
        for file in (tmp_path / "set").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path / "set"))
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    data = load("flowers102")
    assert (len(data.train), len(data.held_out), data.class_names) == (2, 1, ("001", "002"))


def test_digests_of_downloads() -> None:
    """Each file has a digest that hashlib can compute, and its name at the end of each address."""
    checked = 0
    for name in registry.names("dataset"):
        for remote in getattr(registry.get("dataset", name), "files", ()):
            checked += 1
            kind, _, digest = remote.digest.partition(":")
            assert len(digest) == 2 * hashlib.new(kind).digest_size and int(digest, 16)
            assert all(url.endswith("/" + remote.name) for url in remote.urls)
    assert checked >= 12


def test_error_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        open_source("digits")
