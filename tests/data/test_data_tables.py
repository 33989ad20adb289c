"""Parquet files and sets of the hub."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise.data import Source, load, open_source, tables
from fromnoise.data.spec import open_parts
from fromnoise.utils.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PICTURES = np.random.default_rng(5).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    """Encoded."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def structs(rows: slice = slice(None)) -> list[dict[str, object]]:
    """As `datasets` stores pictures."""
    return [{"bytes": png(a), "path": None} for a in PICTURES[rows]]


def all_of(source: Source) -> np.ndarray:
    """Every picture."""
    return np.stack([np.asarray(source.read(i)) for i in range(len(source))])


def codes(source: Source) -> list[int | None]:
    """Every label."""
    return [source.label(i) for i in range(len(source))]


@pytest.mark.parametrize("content", [structs(), [png(a) for a in PICTURES]], ids=["structures", "bytes"])
def test_a_parquet_file(tmp_path: Path, content: list) -> None:
    """Pictures in their column, labels in theirs, whatever else there is."""
    table = pa.table({"id": list("abcdef"), "picture": content, "label": [2, 0, 0, 5, 2, 5]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    source = open_source(str(tmp_path / "x.parquet"))
    assert np.array_equal(all_of(source), PICTURES)
    assert source.class_names == ("0", "2", "5") and codes(source) == [1, 0, 0, 2, 1, 2]
    assert source.name(3) == "row 3 of x.parquet" and source.size(3) == len(png(PICTURES[3]))


def test_words_as_labels(tmp_path: Path) -> None:
    """A column of words named class."""
    pq.write_table(pa.table({"class": list("babcab"), "jpg": structs()}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    assert source.class_names == ("a", "b", "c") and codes(source) == [1, 0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
        ("data/train/0000.parquet", "data/train/0001.parquet", "data/test/0000.parquet"),
        ("test_run/train-0.parquet", "test_run/train-1.parquet", "test_run/test-0.parquet"),
    ],
)
def test_a_folder_of_parquet_files(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Splits by the names of files or folders, files of a split in order, labels numbered alike."""
    rows = (slice(0, 2), slice(2, 4), slice(4, 6))
    for name, part, tags in zip(names, rows, ([1, 2], [2, 1], [9, 1]), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": structs(part), "label": tags}), tmp_path / name)
    assert list(open_parts(str(tmp_path))) == ["train", "test"]
    train, test = (open_source(f"{tmp_path}:{split}") for split in ("train", "test"))
    assert np.array_equal(all_of(train), PICTURES[:4]) and np.array_equal(all_of(test), PICTURES[4:])
    assert train.class_names == test.class_names == ("1", "2", "9")
    assert codes(train) == [0, 1, 1, 0] and codes(test) == [2, 0]


def test_files_without_splits(tmp_path: Path) -> None:
    """Several files whose names tell no split are one set; a word that only contains one tells none."""
    for k, name in enumerate(("strain.parquet", "latest.parquet")):
        pq.write_table(pa.table({"image": structs(slice(3 * k, 3 * k + 3))}), tmp_path / name)
    parts = open_parts(str(tmp_path))
    assert list(parts) == ["all"] and len(parts["all"]) == 6 and parts["all"].class_names is None


def test_no_pictures_and_no_parquet(tmp_path: Path) -> None:
    """The columns are shown; a broken file is named."""
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="no column of images, only text, label"):
        open_source(str(tmp_path / "x.parquet"))
    (tmp_path / "y.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(UserError, match="cannot be read as parquet") as caught:
        open_source(str(tmp_path / "y.parquet"))
    assert "\n" not in str(caught.value)


def test_an_empty_row_is_an_unreadable_picture(tmp_path: Path, lines: list[str]) -> None:
    """It is left out, counted and named."""
    rows = [*structs(slice(0, 3)), {"bytes": None, "path": None}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "x.parquet")
    data = load(str(tmp_path / "x.parquet"), log=lines.append)
    assert data.skipped == 1 and any("row 3 of x.parquet" in line for line in lines)
    assert len(load(str(tmp_path / "x.parquet"), memory_limit=0).fingerprint) == 16


def test_a_large_set_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    """Beyond what is held in memory the same pictures and labels come from a mapped copy."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tables, "_HOLD", 0)
    table = pa.table({"image": structs(), "label": [0, 1, 2, 0, 1, 2]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"), log=lines.append)
    assert np.array_equal(all_of(source), PICTURES) and codes(source) == [0, 1, 2, 0, 1, 2]
    assert len(lines) == 1 and list((tmp_path / "cache").rglob("*.arrow"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A hub that has one set, mnist-like, with an unlabelled test split; it keeps what it was asked for."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "n": datasets.Value("int64"),
            "pic": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )

    def part(rows: slice, tags: list[int]) -> object:
        columns = {"n": [0] * len(tags), "pic": [Image.fromarray(a) for a in PICTURES[rows]], "kind": tags}
        return datasets.Dataset.from_dict(columns, features=features)

    asked: list[tuple[str, str | None]] = []

    def load_dataset(path: str, name: str | None = None) -> object:
        asked.append((path, name))
        if path != "owner/name":
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub\nand more lines")
        return datasets.DatasetDict({"train": part(slice(0, 4), [1, 0, 0, 1]), "test": part(slice(4, 6), [-1, -1])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_set_of_the_hub(hub: list) -> None:
    """Image and label columns are found by their features, splits by their names."""
    source = open_source("hub:owner/name:train")
    assert np.array_equal(all_of(source), PICTURES[:4])
    assert source.class_names == ("cat", "dog") and codes(source) == [1, 0, 0, 1]
    assert codes(open_source("hub:owner/name:test")) == [None, None]
    open_source("hub:owner/name/config")
    assert hub == [("owner/name", None), ("owner/name", None), ("owner/name", "config")]


def test_a_test_split_without_labels_is_not_held_out(hub: list, lines: list[str]) -> None:
    """Labels are needed on both sides, so a part of the train split is held out, and the log says so."""
    data = load("hub:owner/name", log=lines.append)
    assert (len(data.train), len(data.held_out)) == (3, 1)
    assert data.train.labels is not None and data.held_out.labels is not None
    assert any("test split has no labels" in line for line in lines)


@pytest.mark.parametrize("spec", ["hub:owner/nothing", "hub:", "hub:/"])
def test_a_set_that_the_hub_has_not(hub: list, spec: str) -> None:
    """One line with the hub's own reason."""
    with pytest.raises(UserError, match="hub:") as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_an_unknown_split_of_the_hub(hub: list) -> None:
    """The splits that there are, and the nearest."""
    with pytest.raises(UserError, match="no split 'tets' .it has train, test.; did you mean 'test'"):
        open_source("hub:owner/name:tets")
