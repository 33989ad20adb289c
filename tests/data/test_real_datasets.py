"""The real data sets, if available, against their raw files, which are parsed independently here."""

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
FOLDER = Path(os.environ.get("FROMNOISE_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the real data sets."""
    if not FOLDER.is_dir():
        pytest.skip("the real data sets are not available; name their folder in FROMNOISE_DATA")
    monkeypatch.setenv("FROMNOISE_DATA", str(FOLDER))
    return FOLDER


def need(path: Path) -> Path:
    """The path, or skip the test if it does not exist."""
    if not path.exists():
        pytest.skip(f"{path.name} is not available")
    return path


def all_pixels(images: Images) -> np.ndarray:
    """All images in one array."""
    return images.get(torch.arange(len(images))).numpy()


@pytest.mark.parametrize(("name", "first"), [("mnist", "5"), ("fashion_mnist", "ankle boot")])
def test_mnist_and_fashion_mnist(folder: Path, name: str, first: str) -> None:
    """Every pixel and label of both splits; the first image of MNIST is a 5, of Fashion-MNIST an ankle boot."""
    data = load(name)
    assert data.shape == (1, 28, 28) and data.skipped == 0 and data.class_names is not None
    for images, part, n in ((data.train, "train", 60000), (data.held_out, "t10k", 10000)):
        pixels = gzip.decompress(need(folder / name / f"{part}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress(need(folder / name / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        assert len(images) == n
        assert all_pixels(images).tobytes() == pixels[16:]
        assert images.labels is not None and bytes(images.labels.tolist()) == labels[8:]
    assert data.train.labels is not None and data.class_names[int(data.train.labels[0])] == first
    assert np.bincount(data.train.labels.numpy()).sum() == 60000 and len(data.class_names) == 10


def test_cifar10(folder: Path) -> None:
    """Every pixel and label of the test split, decoded here row by row."""
    pq = pytest.importorskip("pyarrow.parquet")
    file = next(need(folder / "cifar10").glob("test-*.parquet"))
    table = pq.read_table(file).to_pylist()
    data = load("cifar10")
    assert data.shape == (3, 32, 32) and data.class_names is not None and data.class_names[9] == "truck"
    images = np.stack([np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))) for row in table])
    assert np.array_equal(all_pixels(data.held_out), images.transpose(0, 3, 1, 2))
    assert data.held_out.labels is not None and data.held_out.labels.tolist() == [row["label"] for row in table]
    assert len(data.train) >= 10000


def test_flowers102(folder: Path) -> None:
    """8,189 images in 102 classes at 64x64, with the test split of the archive held out."""
    path = need(folder / "flowers102_64.zip")
    data = load("flowers102")
    assert data.shape == (3, 64, 64) and data.skipped == 0
    assert data.class_names == tuple(f"{k:03d}" for k in range(1, 103))
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith("test/"))
        first = np.asarray(Image.open(io.BytesIO(archive.read(names[0]))))
    assert len(data.held_out) == len(names)
    assert np.array_equal(all_pixels(data.held_out)[0], first.transpose(2, 0, 1))
    assert len(open_source("flowers102")) == 8189
    streamed = load("flowers102", memory_limit=0)
    some = torch.arange(0, len(data.train), 97)
    assert torch.equal(streamed.train.get(some), data.train.get(some))


def test_emoji(folder: Path) -> None:
    """A .zip archive without classes: 3,583 images, 5 % of them held out."""
    data = load(str(need(folder / "emoji_64.zip")))
    assert data.shape == (3, 64, 64) and data.class_names is None
    assert len(data.train) + len(data.held_out) == 3583 and len(data.held_out) == round(0.05 * 3583)
