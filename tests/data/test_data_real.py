"""The real sets, where they are at hand: against the raw bytes, read here by other means."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise.data import Images, load, open_source

pytestmark = pytest.mark.slow
PLACE = Path(os.environ.get("FROMNOISE_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the real sets."""
    if not PLACE.is_dir():
        pytest.skip("the real sets are not at hand; name their folder in FROMNOISE_DATA")
    monkeypatch.setenv("FROMNOISE_DATA", str(PLACE))
    return PLACE


def need(path: Path) -> Path:
    """A file, or skip."""
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    return path


def everything(images: Images) -> np.ndarray:
    """Every picture."""
    return images.get(torch.arange(len(images))).numpy()


@pytest.mark.parametrize(("name", "first"), [("mnist", "5"), ("fashion_mnist", "ankle boot")])
def test_the_sets_in_the_format_of_mnist(place: Path, name: str, first: str) -> None:
    """Every pixel and label, train and test; MNIST begins with a 5, Fashion-MNIST with an ankle boot."""
    data = load(name)
    assert data.shape == (1, 28, 28) and data.skipped == 0 and data.class_names is not None
    for images, part, n in ((data.train, "train", 60000), (data.held_out, "t10k", 10000)):
        pixels = gzip.decompress(need(place / name / f"{part}-images-idx3-ubyte.gz").read_bytes())
        tags = gzip.decompress(need(place / name / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        assert len(images) == n
        assert everything(images).tobytes() == pixels[16:]
        assert images.labels is not None and bytes(images.labels.tolist()) == tags[8:]
    assert data.train.labels is not None and data.class_names[int(data.train.labels[0])] == first
    assert np.bincount(data.train.labels.numpy()).sum() == 60000 and len(data.class_names) == 10


def test_cifar10(place: Path) -> None:
    """Every pixel and label of the test split, colour, 32x32, decoded here row by row."""
    pq = pytest.importorskip("pyarrow.parquet")
    file = next(need(place / "cifar10").glob("test-*.parquet"))
    table = pq.read_table(file).to_pylist()
    data = load("cifar10")
    assert data.shape == (3, 32, 32) and data.class_names is not None and data.class_names[9] == "truck"
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))) for row in table])
    assert np.array_equal(everything(data.held_out), pictures.transpose(0, 3, 1, 2))
    assert data.held_out.labels is not None and data.held_out.labels.tolist() == [row["label"] for row in table]
    assert len(data.train) >= 10000


def test_flowers(place: Path) -> None:
    """8,189 flowers in 102 classes at 64x64, held out as the archive says."""
    path = need(place / "flowers102_64.zip")
    data = load("flowers102")
    assert data.shape == (3, 64, 64) and data.skipped == 0
    assert data.class_names == tuple(f"{k:03d}" for k in range(1, 103))
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith("test/"))
        first = np.asarray(Image.open(io.BytesIO(archive.read(names[0]))))
    assert len(data.held_out) == len(names)
    assert np.array_equal(everything(data.held_out)[0], first.transpose(2, 0, 1))
    assert len(open_source("flowers102")) == 8189
    read = load("flowers102", memory_limit=0)
    some = torch.arange(0, len(data.train), 97)
    assert torch.equal(read.train.get(some), data.train.get(some))


def test_emoji(place: Path) -> None:
    """A .zip without classes: 3,583 pictures, a seeded part held out."""
    data = load(str(need(place / "emoji_64.zip")))
    assert data.shape == (3, 64, 64) and data.class_names is None
    assert len(data.train) + len(data.held_out) == 3583 and len(data.held_out) == round(0.05 * 3583)
