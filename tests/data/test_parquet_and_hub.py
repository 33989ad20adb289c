"""Parquet files and data sets of the Hugging Face hub."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import Source, load, open_source
from fromnoise.data.formats import parquet
from fromnoise.data.spec import open_splits
from fromnoise.utils.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES = np.random.default_rng(5).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    """An encoded image."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def structs(rows: slice = slice(None)) -> list[dict[str, object]]:
    """Images as `datasets` stores them."""
    return [{"bytes": png(a), "path": None} for a in IMAGES[rows]]


def all_of(source: Source) -> np.ndarray:
    """All images."""
    return np.stack([np.asarray(source.read(i)) for i in range(len(source))])


def class_indices(source: Source) -> list[int | None]:
    """Class of each image."""
    return [source.label(i) for i in range(len(source))]


@pytest.mark.parametrize("content", [structs(), [png(a) for a in IMAGES]], ids=["structures", "bytes"])
def test_parquet_file(tmp_path: Path, content: list) -> None:
    """Image and label columns are found among others."""
    table = pa.table({"id": list("abcdef"), "picture": content, "label": [2, 0, 0, 5, 2, 5]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    source = open_source(str(tmp_path / "x.parquet"))
    assert np.array_equal(all_of(source), IMAGES)
    assert source.class_names == ("0", "2", "5") and class_indices(source) == [1, 0, 0, 2, 1, 2]
    assert source.name(3) == "row 3 of x.parquet" and source.file_size(3) == len(png(IMAGES[3]))


def test_labels_that_are_words(tmp_path: Path) -> None:
    """In a column named class."""
    pq.write_table(pa.table({"class": list("babcab"), "jpg": structs()}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    assert source.class_names == ("a", "b", "c") and class_indices(source) == [1, 0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
        ("data/train/0000.parquet", "data/train/0001.parquet", "data/test/0000.parquet"),
        ("test_run/train-0.parquet", "test_run/train-1.parquet", "test_run/test-0.parquet"),
    ],
)
def test_folder_of_parquet_files(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Splits by the names of files or folders; the files of a split are concatenated in order of their names."""
    rows = (slice(0, 2), slice(2, 4), slice(4, 6))
    for name, part, labels in zip(names, rows, ([1, 2], [2, 1], [9, 1]), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": structs(part), "label": labels}), tmp_path / name)
    assert list(open_splits(str(tmp_path))) == ["train", "test"]
    train, test = (open_source(f"{tmp_path}:{split}") for split in ("train", "test"))
    assert np.array_equal(all_of(train), IMAGES[:4]) and np.array_equal(all_of(test), IMAGES[4:])
    assert train.class_names == test.class_names == ("1", "2", "9")
    assert class_indices(train) == [0, 1, 1, 0] and class_indices(test) == [2, 0]


def test_parquet_files_without_splits(tmp_path: Path) -> None:
    """Files whose names contain no split as a word are one data set."""
    for k, name in enumerate(("strain.parquet", "latest.parquet")):
        pq.write_table(pa.table({"image": structs(slice(3 * k, 3 * k + 3))}), tmp_path / name)
    splits = open_splits(str(tmp_path))
    assert list(splits) == ["all"] and len(splits["all"]) == 6 and splits["all"].class_names is None


def test_parquet_without_images_and_damaged_parquet(tmp_path: Path) -> None:
    """The error lists the columns, or names the damaged file."""
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="no column of images, only text, label"):
        open_source(str(tmp_path / "x.parquet"))
    (tmp_path / "y.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(UserError, match="cannot be read as parquet") as caught:
        open_source(str(tmp_path / "y.parquet"))
    assert "\n" not in str(caught.value)


def test_empty_row_is_an_unreadable_image(tmp_path: Path, lines: list[str]) -> None:
    """It is left out, counted and named in the log."""
    rows = [*structs(slice(0, 3)), {"bytes": None, "path": None}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "x.parquet")
    data = load(str(tmp_path / "x.parquet"), log=lines.append)
    assert data.skipped == 1 and any("row 3 of x.parquet" in line for line in lines)
    assert len(load(str(tmp_path / "x.parquet"), memory_limit=0).fingerprint) == 16


def test_large_parquet_files_are_memory_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """Above the memory limit the same images and labels are read from a mapped copy."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet, "MEMORY_LIMIT", 0)
    table = pa.table({"image": structs(), "label": [0, 1, 2, 0, 1, 2]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"), log=lines.append)
    assert np.array_equal(all_of(source), IMAGES) and class_indices(source) == [0, 1, 2, 0, 1, 2]
    assert len(lines) == 1 and list((tmp_path / "cache").rglob("*.arrow"))


def test_without_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    """The extra is needed for the hub and for large files alone; both say so in one line."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    pq.write_table(pa.table({"image": structs()}), tmp_path / "x.parquet")
    assert np.array_equal(all_of(open_source(str(tmp_path / "x.parquet"))), IMAGES)
    monkeypatch.setattr(parquet, "MEMORY_LIMIT", 0)
    for spec in (str(tmp_path / "x.parquet"), "hub:a/b"):
        with pytest.raises(UserError, match=r"pip install 'fromnoise\[datasets\]'"):
            open_source(spec, log=lines.append)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A hub with one data set, whose test split has no labels; the requests are recorded."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "n": datasets.Value("int64"),
            "pic": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )

    def part(rows: slice, labels: list[int]) -> object:
        columns = {"n": [0] * len(labels), "pic": [Image.fromarray(a) for a in IMAGES[rows]], "kind": labels}
        return datasets.Dataset.from_dict(columns, features=features)

    requests: list[tuple[str, str | None]] = []

    def load_dataset(path: str, name: str | None = None) -> object:
        requests.append((path, name))
        if path != "owner/name":
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub\nand more lines")
        return datasets.DatasetDict({"train": part(slice(0, 4), [1, 0, 0, 1]), "test": part(slice(4, 6), [-1, -1])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return requests


def test_hub_dataset(hub: list) -> None:
    """Image and label columns are found by their features."""
    source = open_source("hub:owner/name:train")
    assert np.array_equal(all_of(source), IMAGES[:4])
    assert source.class_names == ("cat", "dog") and class_indices(source) == [1, 0, 0, 1]
    assert class_indices(open_source("hub:owner/name:test")) == [None, None]
    open_source("hub:owner/name/config")
    assert hub == [("owner/name", None), ("owner/name", None), ("owner/name", "config")]


def test_test_split_without_labels_is_not_held_out(hub: list, lines: list[str]) -> None:
    """A part of the train split is held out instead, so that both parts have labels; the log says so."""
    data = load("hub:owner/name", log=lines.append)
    assert (len(data.train), len(data.held_out)) == (3, 1)
    assert data.train.labels is not None and data.held_out.labels is not None
    assert any("test split has no labels" in line for line in lines)


@pytest.mark.parametrize("spec", ["hub:owner/nothing", "hub:", "hub:/"])
def test_unknown_hub_dataset(hub: list, spec: str) -> None:
    """One line with the first line of the hub's error."""
    with pytest.raises(UserError, match="hub:") as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_unknown_split_of_a_hub_dataset(hub: list) -> None:
    """The error lists the splits and suggests the nearest."""
    with pytest.raises(UserError, match="no split 'tets' .it has train, test.; did you mean 'test'"):
        open_source("hub:owner/name:tets")
