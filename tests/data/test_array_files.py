"""Arrays in .npz, .npy and IDX files, and the digits of scikit-learn."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fromnoise.data import Source, open_source
from fromnoise.data.spec import open_splits
from fromnoise.utils.errors import UserError

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
IMAGES[0, 0, 0], IMAGES[0, 0, 1] = 0, 255  # so that the range is 0..255


def all_of(source: Source) -> np.ndarray:
    """All images of a source."""
    return np.stack([np.asarray(source.read(i)) for i in range(len(source))])


def save(path: Path, **arrays: np.ndarray) -> str:
    """Write a .npz file, or a .npy file if the array is called ``only``; return its path."""
    if "only" in arrays:
        np.save(path / "x.npy", arrays["only"])
        return str(path / "x.npy")
    np.savez(path / "x.npz", allow_pickle=False, **arrays)
    return str(path / "x.npz")


@pytest.mark.parametrize("key", ["images", "anything", "arr_0", "only"])
def test_layouts_of_uint8_arrays(tmp_path: Path, key: str) -> None:
    """(N, H, W, C), (N, C, H, W) and (N, H, W) give the same images, under each accepted name of the array."""
    assert np.array_equal(all_of(open_source(save(tmp_path, **{key: IMAGES}))), IMAGES)
    first = IMAGES.transpose(0, 3, 1, 2)
    assert np.array_equal(all_of(open_source(save(tmp_path, **{key: first}))), IMAGES)
    assert np.array_equal(all_of(open_source(save(tmp_path, **{key: IMAGES[..., 0]}))), IMAGES[..., 0])


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
def test_channel_axis(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """The axis of 1, 3 or 4 is the channels, otherwise the smaller one."""
    source = open_source(save(tmp_path, images=np.zeros(shape, dtype=np.uint8)))
    assert np.asarray(source.read(0)).shape == expected


def test_written_samples_are_read_back(tmp_path: Path) -> None:
    """An ambiguous (3, 3, 3, 3) is read as (N, C, H, W), the layout in which samples are written."""
    array = RNG.integers(0, 256, (3, 3, 3, 3), dtype=np.uint8)
    assert np.array_equal(all_of(open_source(save(tmp_path, images=array))), array.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("values", "description"),
    [
        (IMAGES / 255, r"\[0, 1\]"),
        (IMAGES / 127.5 - 1, r"\[-1, 1\]"),
        ((IMAGES / 127.5 - 1).astype(np.float32), r"\[-1, 1\]"),
        (IMAGES.astype(np.float64), r"0\.\.255"),
        (IMAGES.astype(np.int64), r"0\.\.255"),
        (IMAGES.astype(np.uint16) * 257, r"0\.\.65535"),
    ],
)
def test_value_ranges(tmp_path: Path, values: np.ndarray, description: str, lines: list[str]) -> None:
    """Every range gives the same bytes, and the log names the range."""
    source = open_source(save(tmp_path, images=values), log=lines.append)
    assert np.array_equal(all_of(source), IMAGES)
    assert len(lines) == 1 and re.search(description, lines[0])


def test_boolean_array(tmp_path: Path) -> None:
    """False is 0 and true is 255."""
    mask = RNG.random((3, 4, 4)) > 0.5
    assert np.array_equal(all_of(open_source(save(tmp_path, images=mask))), np.where(mask, 255, 0))


@pytest.mark.parametrize("key", ["images", "only"])
@pytest.mark.parametrize(
    ("array", "message"),
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
def test_arrays_that_are_not_images(tmp_path: Path, key: str, array: np.ndarray, message: str) -> None:
    """A wrong rank, type or range gives one line with what was found and what is expected."""
    with pytest.raises(UserError, match=message) as caught:
        open_source(save(tmp_path, **{key: array}))
    assert "\n" not in str(caught.value)


def test_python_objects_are_not_unpickled(tmp_path: Path) -> None:
    """An array of objects is a pickle and is refused without opening it."""
    np.savez(tmp_path / "x.npz", images=np.array([{}, None], dtype=object), allow_pickle=True)
    np.save(tmp_path / "x.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    for name in ("x.npz", "x.npy"):
        with pytest.raises(UserError, match="cannot be read"):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
@pytest.mark.parametrize("keep", [0, 3, 60, -40])
def test_truncated_array_files(tmp_path: Path, name: str, keep: int) -> None:
    """A damaged file gives an error that names it."""
    path = Path(save(tmp_path, **{"only" if name.endswith("npy") else "images": IMAGES}))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="cannot be read as"):
        open_source(str(path))


def test_other_content_in_a_npz_file(tmp_path: Path) -> None:
    """Text and a single array in a file named .npz are refused."""
    (tmp_path / "x.npz").write_text("words")
    with pytest.raises(UserError, match="cannot be read"):
        open_source(str(tmp_path / "x.npz"))
    np.save(tmp_path / "y.npy", IMAGES)
    (tmp_path / "y.npy").rename(tmp_path / "y.npz")
    with pytest.raises(UserError, match="name it .npy"):
        open_source(str(tmp_path / "y.npz"))


def test_ambiguous_array_names(tmp_path: Path) -> None:
    """Several arrays and none called images: the error lists their names."""
    with pytest.raises(UserError, match="a, b; name the array"):
        open_source(save(tmp_path, a=IMAGES, b=IMAGES))


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        (np.array([3, 1, 1, 7, 3]), ("1", "3", "7"), [1, 0, 0, 2, 1]),
        (np.array([[0], [1], [0], [2], [1]]), ("0", "1", "2"), [0, 1, 0, 2, 1]),
        (np.array(["cat", "ant", "cat", "dog", "ant"]), ("ant", "cat", "dog"), [1, 0, 1, 2, 0]),
        (np.array([b"y", b"x", b"x", b"x", b"x"]), ("x", "y"), [1, 0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("keys", [("images", "labels"), ("arr_0", "arr_1")])
def test_labels_in_a_npz_file(
    tmp_path: Path, labels: np.ndarray, names: tuple, indices: list, keys: tuple[str, str]
) -> None:
    """Numbers or words, one per image; the sorted distinct labels are the classes."""
    source = open_source(save(tmp_path, **{keys[0]: IMAGES, keys[1]: labels}))
    assert source.class_names == names and [source.label(i) for i in range(5)] == indices


@pytest.mark.parametrize("labels", [np.zeros(4, dtype=int), np.zeros((5, 2), dtype=int), np.zeros(5)])
def test_labels_of_wrong_shape_or_type(tmp_path: Path, labels: np.ndarray) -> None:
    """Too few labels, too many axes, or floats."""
    with pytest.raises(UserError, match="labels"):
        open_source(save(tmp_path, images=IMAGES, labels=labels))


@pytest.mark.parametrize("naming", ["x_{0}", "{0}_images"])
def test_splits_in_one_npz_file(tmp_path: Path, naming: str) -> None:
    """Names as of Keras and MedMNIST; all splits share the class indices."""
    label_key = {"x_{0}": "y_{0}", "{0}_images": "{0}_labels"}[naming]
    arrays = {}
    for k, split in enumerate(("train", "test", "val")):
        arrays[naming.format(split)], arrays[label_key.format(split)] = IMAGES + k, np.arange(5) + k
    path = save(tmp_path, **arrays)
    assert list(open_splits(path)) == ["train", "validation", "test"]
    for k, split in enumerate(("train", "test", "val")):
        source = open_source(f"{path}:{split}")
        assert np.array_equal(all_of(source), IMAGES + k)
        assert source.class_names == tuple("0123456") and [source.label(i) for i in range(5)] == [
            k + i for i in range(5)
        ]


def test_npy_files_are_memory_mapped(tmp_path: Path) -> None:
    """The array is not read into memory."""
    source = open_source(save(tmp_path, only=IMAGES))
    assert isinstance(source._array, np.memmap) or isinstance(source._array.base, np.memmap)  # type: ignore[attr-defined]


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    """IDX as LeCun's page describes it, written with struct."""
    head = struct.pack(">BBBB", 0, 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files(tmp_path: Path, packed: bool) -> None:
    """Images with a file of labels beside them, gzipped or not; a folder of such files has splits."""
    digits, labels = IMAGES[..., 0], np.array([4, 0, 1, 1, 4], dtype=np.uint8)
    suffix = ".gz" if packed else ""
    wrap = gzip.compress if packed else bytes
    (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(wrap(idx(digits)))
    (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(wrap(idx(labels)))
    (tmp_path / f"t10k-images-idx3-ubyte{suffix}").write_bytes(wrap(idx(digits[:2])))
    source = open_source(str(tmp_path / f"train-images-idx3-ubyte{suffix}"))
    assert np.array_equal(all_of(source), digits) and source.class_names == ("0", "1", "4")
    assert list(open_splits(str(tmp_path))) == ["train", "test"]
    assert np.array_equal(all_of(open_source(f"{tmp_path}:test")), digits[:2])


def test_idx_of_other_types(tmp_path: Path) -> None:
    """Big-endian floats and 16-bit integers."""
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
    ("content", "message"),
    [
        (idx(IMAGES[..., 0])[:-1], "truncated"),
        (idx(IMAGES[..., 0]) + b"x", "truncated"),
        (idx(IMAGES[..., 0])[:9], "truncated"),
        (b"", "not an IDX"),
        (b"GIF89a__", "not an IDX"),
        (gzip.compress(idx(IMAGES[..., 0]))[:-9], "not a complete gzip"),
        (b"\x1f\x8b garbage", "not a complete gzip"),
        (idx(np.arange(5, dtype=np.uint8)), "shape"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, content: bytes, message: str) -> None:
    """The error names the problem in one line."""
    (tmp_path / "x-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        open_source(str(tmp_path / "x-images-idx3-ubyte"))
    assert "\n" not in str(caught.value)


def test_digits_of_scikit_learn() -> None:
    """All 1,797 images, with the 17 grey levels spread over 0..255."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    source = open_source("digits")
    assert len(source) == 1797 and source.class_names == tuple("0123456789")
    assert [source.label(i) for i in range(1797)] == bunch["target"].tolist()
    got = all_of(source)
    assert got.shape == (1797, 8, 8) and got.dtype == np.uint8
    assert len(np.unique(got)) == 17 and got.min() == 0 and got.max() == 255
    assert np.abs(got / 255 - bunch["images"] / 16).max() <= 0.5 / 255 + 1e-9
