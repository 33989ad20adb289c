"""Sets known by name: where they are looked for, and how they are fetched."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import NAMES, load, named, open_source
from fromnoise.data.spec import open_parts
from fromnoise.utils.errors import UserError

Writer = Callable[..., list[np.ndarray]]

FILES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
DIGITS = np.random.default_rng(6).integers(0, 256, (12, 8, 8), dtype=np.uint8)
TAGS = (np.arange(12) % 10).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    """A gzipped IDX file."""
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


def put(folder: Path) -> tuple[str, ...]:
    """Write a small set in the four files of MNIST; their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [idx(a) for a in (DIGITS[:8], TAGS[:8], DIGITS[8:], TAGS[8:])]
    for name, content in zip(FILES, contents, strict=True):
        (folder / name).write_bytes(content)
    return tuple(hashlib.sha256(content).hexdigest() for content in contents)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which fashion_mnist is fetched, behind an address that does not answer."""
    folder = tmp_path / "net"
    digests = put(folder)
    bases = ((tmp_path / "down").as_uri() + "/", folder.as_uri() + "/")
    labels = tuple(f"thing {k}" for k in range(10))
    monkeypatch.setitem(named._SETS, "fashion_mnist", named.Idx("fashion_mnist", bases, digests, labels))
    return folder


def test_the_users_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$FROMNOISE_DATA/mnist is read where it lies; nothing is fetched or written."""
    put(tmp_path / "data" / "mnist")
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    parts = open_parts("mnist")
    assert list(parts) == ["train", "test"] and [len(p) for p in parts.values()] == [8, 4]
    assert parts["train"].class_names == tuple("0123456789") and parts["test"].label(0) == TAGS[8]
    assert not (tmp_path / "cache").exists()


def test_then_the_net_and_then_the_cache(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """The second address is tried after the first; what was fetched once is not fetched again."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    source = open_source("fashion_mnist:test", log=lines.append)
    assert np.array_equal(np.stack([np.asarray(source.read(i)) for i in range(4)]), DIGITS[8:])
    assert source.class_names is not None and source.class_names[3] == "thing 3"
    assert len([line for line in lines if "fetching" in line]) == 4
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["fashion_mnist"]
    for file in net.iterdir():
        file.unlink()
    lines.clear()
    assert len(open_source("fashion_mnist", log=lines.append)) == 12 and not lines


def test_something_else_than_expected_is_not_kept(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a hotel's network in place of the file: one line, and a cache without half a set."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    (net / FILES[2]).write_bytes(b"<html>please log in</html>")
    with pytest.raises(UserError, match="holds something else than expected") as caught:
        open_source("fashion_mnist")
    assert "\n" not in str(caught.value) and list((tmp_path / "cache").iterdir()) == []


def test_no_network_says_how_to_do_without(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which files, into which folder, and which variable."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    for file in net.iterdir():
        file.unlink()
    with pytest.raises(UserError) as caught:
        load("fashion_mnist")
    for told in (*FILES, str(tmp_path / "cache" / "fashion_mnist"), "FROMNOISE_DATA"):
        assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_lies_in_the_cache_is_not_lost(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was begun by hand is completed, and its own files stay."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    mine = tmp_path / "cache" / "fashion_mnist" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert len(open_source("fashion_mnist")) == 12 and mine.read_text() == "mine"


def test_a_cache_that_cannot_be_written(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the variable that names another."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="FROMNOISE_CACHE"):
        open_source("fashion_mnist")


def test_a_part_of_a_set_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the training files are there: that is the set, and a part of it is held out."""
    put(tmp_path / "mnist")
    for name in FILES[2:]:
        (tmp_path / "mnist" / name).unlink()
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    data = load("mnist", holdout=0.25)
    assert (len(data.train), len(data.held_out)) == (6, 2)


def test_cifar10_has_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet files that hold numbers only; class 9 is truck even where no other class is present."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    (tmp_path / "cifar10").mkdir()
    for split, tags in (("train", [9, 9]), ("test", [3])):
        rows = [{"bytes": file.getvalue(), "path": None} for _ in tags]
        pq.write_table(pa.table({"img": rows, "label": tags}), tmp_path / "cifar10" / f"{split}-0.parquet")
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    train, test = open_source("cifar10:train"), open_source("cifar10:test")
    assert train.class_names is not None and train.class_names[train.label(0) or 0] == "truck"
    assert test.class_names is not None and test.class_names[test.label(0) or 0] == "cat"


def test_flowers_are_unpacked_into_splits_and_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the archive and labels as their authors publish them: 8 of 10 to train on, each picture once."""
    scipy_io = pytest.importorskip("scipy.io")
    net = tmp_path / "net"
    net.mkdir()
    labels = np.repeat([77, 3], 20)
    scipy_io.savemat(net / "imagelabels.mat", {"labels": labels[None]})
    with tarfile.open(net / "102flowers.tgz", "w:gz") as archive:
        for number in range(1, 41):
            file = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), number * 5, dtype=np.uint8)).save(file, "JPEG")
            member = tarfile.TarInfo(f"jpg/image_{number:05d}.jpg")
            member.size = file.tell()
            archive.addfile(member, io.BytesIO(file.getvalue()))
    flowers = named.Flowers102()
    flowers.remotes = tuple(
        named.Remote(r.name, ((net / r.name).as_uri(),), "md5:" + hashlib.md5((net / r.name).read_bytes()).hexdigest())
        for r in flowers.remotes
    )
    monkeypatch.setitem(named._SETS, "flowers102", flowers)
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    parts = open_parts("flowers102")
    assert {s: len(p) for s, p in parts.items()} == {"train": 32, "validation": 4, "test": 4}
    numbers = set()
    for part in parts.values():
        for i in range(len(part)):
            number = int(part.name(i)[-9:-4])
            numbers.add(number)
            code = part.label(i)
            assert part.class_names == ("003", "077") and code is not None
            assert int(("003", "077")[code]) == labels[number - 1]
            assert np.abs(np.asarray(part.read(i)).astype(int) - number * 5).max() <= 2
    assert numbers == set(range(1, 41))
    assert not list((tmp_path / "cache").rglob("*.tgz"))


def test_flowers_from_an_archive_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer) -> None:
    """flowers102_64.zip below $FROMNOISE_DATA, in folders split/class."""
    import zipfile

    write(tmp_path / "set", ["train/001/a.png", "train/002/b.png", "test/001/c.png"])
    with zipfile.ZipFile(tmp_path / "flowers102_64.zip", "w") as archive:
        for file in (tmp_path / "set").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path / "set"))
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    data = load("flowers102")
    assert (len(data.train), len(data.held_out), data.class_names) == (2, 1, ("001", "002"))


def test_every_fetched_file_is_checked() -> None:
    """Each has a digest of a kind that hashlib knows, of its length, and an address with the file's name."""
    for name in NAMES:
        for remote in named._SETS[name].remotes if name in named._SETS else ():
            kind, _, digest = remote.digest.partition(":")
            assert len(digest) == 2 * hashlib.new(kind).digest_size and int(digest, 16)
            assert all(url.endswith("/" + remote.name) for url in remote.urls)


def test_sklearn_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits say what to install."""
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        open_source("digits")
