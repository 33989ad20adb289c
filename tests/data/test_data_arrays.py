"""Arrays: .npz, .npy, IDX and the bundled digits."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fromnoise.data import Source, open_source
from fromnoise.data.spec import open_parts
from fromnoise.utils.errors import UserError

RNG = np.random.default_rng(3)
PICTURES = RNG.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
PICTURES[0, 0, 0], PICTURES[0, 0, 1] = 0, 255  # so that the range is whole


def all_of(source: Source) -> np.ndarray:
    """Every picture."""
    return np.stack([np.asarray(source.read(i)) for i in range(len(source))])


def saved(path: Path, **arrays: np.ndarray) -> str:
    """An .npz, or an .npy if there is one array called ``only``."""
    if "only" in arrays:
        np.save(path / "x.npy", arrays["only"])
        return str(path / "x.npy")
    np.savez(path / "x.npz", allow_pickle=False, **arrays)
    return str(path / "x.npz")


@pytest.mark.parametrize("key", ["images", "anything", "arr_0", "only"])
def test_bytes_in_any_layout(tmp_path: Path, key: str) -> None:
    """(N, H, W, C), (N, C, H, W) and (N, H, W), under the usual names."""
    assert np.array_equal(all_of(open_source(saved(tmp_path, **{key: PICTURES}))), PICTURES)
    first = PICTURES.transpose(0, 3, 1, 2)
    assert np.array_equal(all_of(open_source(saved(tmp_path, **{key: first}))), PICTURES)
    assert np.array_equal(all_of(open_source(saved(tmp_path, **{key: PICTURES[..., 0]}))), PICTURES[..., 0])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 28, 28, 1), (28, 28, 1)),
        ((2, 1, 28, 28), (28, 28, 1)),
        ((2, 4, 8, 8), (8, 8, 4)),
        ((2, 8, 8, 4), (8, 8, 4)),
        ((2, 5, 8, 9), (8, 9, 5)),
        ((2, 8, 9, 5), (8, 9, 5)),
        ((2, 3, 2, 2), (2, 2, 3)),
        ((2, 2, 2, 3), (2, 2, 3)),
        ((2, 3, 3, 3), (3, 3, 3)),
        ((2, 1, 1, 1), (1, 1, 1)),
    ],
)
def test_where_the_channels_are(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """By the usual counts, else by the smaller axis."""
    source = open_source(saved(tmp_path, images=np.zeros(shape, dtype=np.uint8)))
    assert np.asarray(source.read(0)).shape == expected


def test_our_own_samples_come_back(tmp_path: Path) -> None:
    """(N, C, H, W) with C = 3 and tiny pictures: the layout that this program writes."""
    array = RNG.integers(0, 256, (3, 3, 3, 3), dtype=np.uint8)
    assert np.array_equal(all_of(open_source(saved(tmp_path, images=array))), array.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (PICTURES / 255, r"\[0, 1\]"),
        (PICTURES / 127.5 - 1, r"\[-1, 1\]"),
        ((PICTURES / 127.5 - 1).astype(np.float32), r"\[-1, 1\]"),
        (PICTURES.astype(np.float64), r"0\.\.255"),
        (PICTURES.astype(np.int64), r"0\.\.255"),
        (PICTURES.astype(np.uint16) * 257, r"0\.\.65535"),
    ],
)
def test_numbers_that_are_not_bytes(tmp_path: Path, numbers: np.ndarray, words: str, lines: list[str]) -> None:
    """Taken by their range, the same pixels each time, and the log says how."""
    source = open_source(saved(tmp_path, images=numbers), log=lines.append)
    assert np.array_equal(all_of(source), PICTURES)
    assert len(lines) == 1 and re.search(words, lines[0])


def test_true_and_false(tmp_path: Path) -> None:
    """A mask is black and white."""
    mask = RNG.random((3, 4, 4)) > 0.5
    assert np.array_equal(all_of(open_source(saved(tmp_path, images=mask))), np.where(mask, 255, 0))


@pytest.mark.parametrize("key", ["images", "only"])
@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((3, 4)), r"shape \(3, 4\)"),
        (np.zeros(7), r"shape \(7,\)"),
        (np.zeros((2, 3, 4, 5, 6)), "shape"),
        (np.zeros((2, 0, 4)), "shape"),
        (np.zeros((2, 4, 4), dtype=np.complex64), "complex64"),
        (np.array([["a", "b"]]), "type"),
        (np.linspace(-3, 3, 32).reshape(2, 4, 4), "spans -3 to 3"),
        (np.array([[[0.0, np.nan]]]), "not finite"),
        (np.array([[[0.0, np.inf]]]), "not finite"),
        (np.full((1, 2, 2), 70000), "spans 7e"),
    ],
)
def test_arrays_that_are_no_pictures(tmp_path: Path, key: str, array: np.ndarray, told: str) -> None:
    """The wrong rank, type or range: one line that says what is there and what should be."""
    with pytest.raises(UserError, match=told) as caught:
        open_source(saved(tmp_path, **{key: array}))
    assert "\n" not in str(caught.value)


def test_python_objects_are_not_unpickled(tmp_path: Path) -> None:
    """An array of objects is a pickle, and is refused unopened."""
    np.savez(tmp_path / "x.npz", images=np.array([{}, None], dtype=object), allow_pickle=True)
    np.save(tmp_path / "x.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    for name in ("x.npz", "x.npy"):
        with pytest.raises(UserError, match="cannot be read"):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
@pytest.mark.parametrize("keep", [0, 3, 60, -40])
def test_files_cut_short(tmp_path: Path, name: str, keep: int) -> None:
    """A broken file is named."""
    path = Path(saved(tmp_path, **{"only" if name.endswith("npy") else "images": PICTURES}))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="cannot be read as"):
        open_source(str(path))


def test_text_called_npz_and_npy_called_npz(tmp_path: Path) -> None:
    """Neither is taken for an archive."""
    (tmp_path / "x.npz").write_text("words")
    with pytest.raises(UserError, match="cannot be read"):
        open_source(str(tmp_path / "x.npz"))
    np.save(tmp_path / "y.npy", PICTURES)
    (tmp_path / "y.npy").rename(tmp_path / "y.npz")
    with pytest.raises(UserError, match="name it .npy"):
        open_source(str(tmp_path / "y.npz"))


def test_which_array_holds_the_images(tmp_path: Path) -> None:
    """Several arrays and none called images: the names are shown."""
    with pytest.raises(UserError, match="a, b; name the one"):
        open_source(saved(tmp_path, a=PICTURES, b=PICTURES))


@pytest.mark.parametrize(
    ("labels", "names", "codes"),
    [
        (np.array([3, 1, 1, 7, 3]), ("1", "3", "7"), [1, 0, 0, 2, 1]),
        (np.array([[0], [1], [0], [2], [1]]), ("0", "1", "2"), [0, 1, 0, 2, 1]),
        (np.array(["cat", "ant", "cat", "dog", "ant"]), ("ant", "cat", "dog"), [1, 0, 1, 2, 0]),
        (np.array([b"y", b"x", b"x", b"x", b"x"]), ("x", "y"), [1, 0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("keys", [("images", "labels"), ("arr_0", "arr_1")])
def test_labels(tmp_path: Path, labels: np.ndarray, names: tuple, codes: list, keys: tuple[str, str]) -> None:
    """Numbers or words, one an image."""
    source = open_source(saved(tmp_path, **{keys[0]: PICTURES, keys[1]: labels}))
    assert source.class_names == names and [source.label(i) for i in range(5)] == codes


@pytest.mark.parametrize("labels", [np.zeros(4, dtype=int), np.zeros((5, 2), dtype=int), np.zeros(5)])
def test_labels_that_do_not_fit(tmp_path: Path, labels: np.ndarray) -> None:
    """Too few, too many axes, or fractions."""
    with pytest.raises(UserError, match="labels"):
        open_source(saved(tmp_path, images=PICTURES, labels=labels))


@pytest.mark.parametrize("naming", ["x_{0}", "{0}_images"])
def test_splits_in_one_file(tmp_path: Path, naming: str) -> None:
    """As Keras and MedMNIST name them; the classes are numbered alike in all."""
    tag = {"x_{0}": "y_{0}", "{0}_images": "{0}_labels"}[naming]
    arrays = {}
    for k, split in enumerate(("train", "test", "val")):
        arrays[naming.format(split)], arrays[tag.format(split)] = PICTURES + k, np.arange(5) + k
    path = saved(tmp_path, **arrays)
    assert list(open_parts(path)) == ["train", "validation", "test"]
    for k, split in enumerate(("train", "test", "val")):
        source = open_source(f"{path}:{split}")
        assert np.array_equal(all_of(source), PICTURES + k)
        assert source.class_names == tuple("0123456") and [source.label(i) for i in range(5)] == [
            k + i for i in range(5)
        ]


def test_a_large_npy_stays_on_the_disk(tmp_path: Path) -> None:
    """The array is mapped and not read."""
    source = open_source(saved(tmp_path, only=PICTURES))
    assert isinstance(source._array, np.memmap) or isinstance(source._array.base, np.memmap)  # type: ignore[attr-defined]


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    """The format as LeCun's page describes it, written with struct."""
    head = struct.pack(">BBBB", 0, 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.mark.parametrize("packed", [True, False])
def test_idx(tmp_path: Path, packed: bool) -> None:
    """A file of images with its labels beside it, gzipped or not."""
    digits, tags = PICTURES[..., 0], np.array([4, 0, 1, 1, 4], dtype=np.uint8)
    ending = ".gz" if packed else ""
    wrap = gzip.compress if packed else bytes
    (tmp_path / f"train-images-idx3-ubyte{ending}").write_bytes(wrap(idx(digits)))
    (tmp_path / f"train-labels-idx1-ubyte{ending}").write_bytes(wrap(idx(tags)))
    (tmp_path / f"t10k-images-idx3-ubyte{ending}").write_bytes(wrap(idx(digits[:2])))
    source = open_source(str(tmp_path / f"train-images-idx3-ubyte{ending}"))
    assert np.array_equal(all_of(source), digits) and source.class_names == ("0", "1", "4")
    assert list(open_parts(str(tmp_path))) == ["train", "test"]
    assert np.array_equal(all_of(open_source(f"{tmp_path}:test")), digits[:2])


def test_idx_of_other_numbers(tmp_path: Path) -> None:
    """Big-endian floats and shorts."""
    unit = np.linspace(0, 1, 24).reshape(2, 3, 4)
    expected = np.rint(unit * 255)
    for code, array in (
        (0x0D, unit.astype(">f4")),
        (0x0E, unit.astype(">f8")),
        (0x0B, expected.astype(">i2")),
    ):
        (tmp_path / "some-images-idx3").write_bytes(idx(array, code))
        assert np.array_equal(all_of(open_source(str(tmp_path / "some-images-idx3"))), expected)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (idx(PICTURES[..., 0])[:-1], "cut off"),
        (idx(PICTURES[..., 0]) + b"x", "cut off"),
        (idx(PICTURES[..., 0])[:9], "cut off"),
        (b"", "not an IDX"),
        (b"GIF89a__", "not an IDX"),
        (gzip.compress(idx(PICTURES[..., 0]))[:-9], "not a whole gzip"),
        (b"\x1f\x8b garbage", "not a whole gzip"),
        (idx(np.arange(5, dtype=np.uint8)), "shape"),
    ],
)
def test_broken_idx(tmp_path: Path, content: bytes, told: str) -> None:
    """Named, in one line."""
    (tmp_path / "x-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        open_source(str(tmp_path / "x-images-idx3-ubyte"))
    assert "\n" not in str(caught.value)


def test_the_bundled_digits() -> None:
    """All 1,797, the 17 greys spread over the bytes, no network."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    source = open_source("digits")
    assert len(source) == 1797 and source.class_names == tuple("0123456789")
    assert [source.label(i) for i in range(1797)] == bunch["target"].tolist()
    got = all_of(source)
    assert got.shape == (1797, 8, 8) and got.dtype == np.uint8
    assert len(np.unique(got)) == 17 and got.min() == 0 and got.max() == 255
    assert np.abs(got / 255 - bunch["images"] / 16).max() <= 0.5 / 255 + 1e-9
