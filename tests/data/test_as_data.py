"""Conversion of tensors, arrays, lists, torch data sets and data loaders to ``Data``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fromnoise.data import Data, MemoryImages, StreamedImages, as_data, load, prepare
from fromnoise.utils.errors import UserError

RNG = np.random.default_rng(4)
PIXELS = RNG.integers(0, 256, (12, 3, 6, 7), dtype=np.uint8)  # (N, C, H, W)
PIXELS[0, 0, 0, :2] = 0, 255  # so that the range is 0..255
LABELS = np.arange(12) % 3


def all_images(data: Data) -> dict[bytes, int | None]:
    """Pixels of every image of both parts, with its label."""
    found: dict[bytes, int | None] = {}
    for images in (data.train, data.held_out):
        for i, image in enumerate(images.get(torch.arange(len(images)))):
            found[image.numpy().tobytes()] = None if images.labels is None else int(images.labels[i])
    return found


def expected(labels: Any = None) -> dict[bytes, int | None]:
    """``all_images`` of ``PIXELS``."""
    return {image.tobytes(): None if labels is None else int(labels[i]) for i, image in enumerate(PIXELS)}


class Items(Dataset[Any]):
    """A torch data set of a list; counts how often an item is read."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.reads = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        self.reads += 1
        return self.items[i]


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        torch.from_numpy(PIXELS),
        PIXELS.transpose(0, 2, 3, 1),
        torch.from_numpy(PIXELS).to(memory_format=torch.channels_last),
        torch.from_numpy(PIXELS).float() / 255,
        (torch.from_numpy(PIXELS).double() / 127.5 - 1).requires_grad_(),
        PIXELS.astype(np.float32) / 127.5 - 1,
        PIXELS.astype(np.int64),
    ],
)
def test_tensors_and_arrays(images: Any) -> None:
    """Every layout, type and value range gives the same bytes and the same fingerprint."""
    data = as_data(images)
    assert data.shape == (3, 6, 7) and (len(data.train), len(data.held_out)) == (11, 1)
    assert all_images(data) == expected() and data.class_names is None
    assert data.fingerprint == as_data(PIXELS).fingerprint


def test_grey_and_half_precision_tensors() -> None:
    """(N, H, W) has one channel; bfloat16 is rounded to the nearest byte."""
    assert as_data(PIXELS[:, 0]).shape == (1, 6, 7)
    black_and_white = torch.from_numpy(PIXELS > 127).to(torch.bfloat16)
    found = all_images(as_data(black_and_white))
    assert found.keys() == {(image * np.uint8(255)).tobytes() for image in (PIXELS > 127).astype(np.uint8)}


def test_value_range_is_logged(lines: list[str]) -> None:
    """For values that are not bytes."""
    as_data(PIXELS / 127.5 - 1, log=lines.append)
    assert lines[0] == "the array: float64 values interpreted as [-1, 1]"
    assert "11 images of 6x7, RGB; 1 held out" in lines[-1] and len(lines) == 2


def test_equals_loading_a_file(tmp_path: Path) -> None:
    """The same parts, labels and fingerprint as of a .npz file with these arrays."""
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS)
    data, loaded = (
        as_data(PIXELS, labels=LABELS, holdout=0.3, seed=5),
        load(str(tmp_path / "x.npz"), holdout=0.3, seed=5),
    )
    assert data.fingerprint == loaded.fingerprint and data.class_names == loaded.class_names == ("0", "1", "2")
    for a, b in ((data.train, loaded.train), (data.held_out, loaded.held_out)):
        indices = torch.arange(len(a))
        assert torch.equal(a.get(indices), b.get(indices)) and torch.equal(a.rows, b.rows)
        assert a.labels is not None and b.labels is not None and torch.equal(a.labels, b.labels)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (LABELS, ("0", "1", "2")),
        (torch.from_numpy(LABELS), ("0", "1", "2")),
        (LABELS[:, None], ("0", "1", "2")),
        (LABELS.tolist(), ("0", "1", "2")),
        (["ant", "bee", "cow"] * 4, ("ant", "bee", "cow")),
    ],
)
def test_labels_of_tensors(labels: Any, names: tuple[str, ...]) -> None:
    """Arrays, tensors and lists of whole numbers or words."""
    data = as_data(torch.from_numpy(PIXELS), labels=labels)
    assert data.class_names == names and all_images(data) == expected(LABELS)


@pytest.mark.parametrize("kind", ["pillow", "arrays", "tensors", "floats", "hwc"])
@pytest.mark.parametrize("container", [list, tuple, Items])
def test_lists_and_data_sets_of_images(kind: str, container: Any) -> None:
    """Pillow images, arrays and tensors, in a list or a torch data set."""
    make = {
        "pillow": lambda a: Image.fromarray(a.transpose(1, 2, 0)),
        "arrays": lambda a: a,
        "tensors": torch.from_numpy,
        "floats": lambda a: torch.from_numpy(a) / 127.5 - 1,
        "hwc": lambda a: a.transpose(1, 2, 0),
    }[kind]
    data = as_data(container([make(a) for a in PIXELS]))
    assert data.shape == (3, 6, 7) and all_images(data) == expected() and data.class_names is None


@pytest.mark.parametrize("label", [int, np.int64, torch.tensor, lambda k: torch.tensor([k]), lambda k: "abc"[k]])
@pytest.mark.parametrize("item", ["pair", "list", "mapping"])
def test_data_sets_of_images_and_labels(label: Any, item: str) -> None:
    """Labels of the usual types, in pairs or mappings."""
    make = {
        "pair": lambda a, k: (torch.from_numpy(a), label(int(k))),
        "list": lambda a, k: [torch.from_numpy(a), label(int(k))],
        "mapping": lambda a, k: {"id": 3, "image": torch.from_numpy(a), "label": label(int(k))},
    }[item]
    items = Items([make(a, k) for a, k in zip(PIXELS, LABELS, strict=True)])
    data = as_data(items)
    assert data.class_names is not None and len(data.class_names) == 3 and all_images(data) == expected(LABELS)
    assert items.reads == 12  # random transforms are applied once


def test_class_names_of_torchvision_data_sets() -> None:
    """They have the attribute ``classes``; a class without images keeps its index."""
    items = Items([(a, int(k)) for a, k in zip(PIXELS, LABELS + 1, strict=True)])
    items.classes = ["none", "ant", "bee", "cow"]  # type: ignore[attr-defined]
    data = as_data(items)
    assert data.class_names == ("none", "ant", "bee", "cow") and all_images(data) == expected(LABELS + 1)


def test_torch_data_sets() -> None:
    """``TensorDataset`` and ``Subset``; a label that is missing makes all labels unused."""
    tensors = TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(LABELS))
    assert all_images(as_data(tensors)) == expected(LABELS)
    assert all_images(as_data(TensorDataset(torch.from_numpy(PIXELS)))) == expected()
    assert len(as_data(Subset(tensors, range(4))).train) == 3
    assert as_data([(a, None if i == 3 else i % 2) for i, a in enumerate(PIXELS)]).class_names is None


def test_data_loader(lines: list[str]) -> None:
    """Its data set is used; the log says that the rest is not."""
    loader = DataLoader(TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(LABELS)), batch_size=5, shuffle=True)
    data = as_data(loader, log=lines.append)
    assert all_images(data) == expected(LABELS)
    assert "batch size" in lines[0] and "are not used" in lines[0]
    assert data.fingerprint == as_data(PIXELS, labels=LABELS).fingerprint


def test_images_of_different_sizes(lines: list[str]) -> None:
    """They are cropped and resized as files are; arrays share one value range."""
    arrays = [RNG.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((8, 9), (12, 8), (10, 10), (8, 8))]
    arrays[0][0, 0] = 0, 128, 255
    wanted = {prepare(a, 8, 8, 3).tobytes() for a in arrays}
    for images in (
        [Image.fromarray(a) for a in arrays],
        arrays,
        [a / 127.5 - 1 for a in arrays],
        [Image.fromarray(arrays[0]), *arrays[1:]],
    ):
        data = as_data(images, size=8, log=lines.append)
        assert data.shape == (3, 8, 8) and all_images(data).keys() == wanted
    assert any("interpreted as [-1, 1]" in line for line in lines)
    assert as_data(arrays).shape == (3, 8, 8)


def test_size_and_channels_of_tensors() -> None:
    """As of ``load``."""
    data = as_data(torch.from_numpy(PIXELS), size=(4, 5), channels=1)
    assert data.shape == (1, 4, 5)
    want = {prepare(image.transpose(1, 2, 0), 4, 5, 1).tobytes() for image in PIXELS}
    assert all_images(data).keys() == want


def test_memory_limit() -> None:
    """A tensor above it is converted on demand; a data set above it is refused."""
    data = as_data(torch.from_numpy(PIXELS), memory_limit=100)
    assert isinstance(data.train, StreamedImages) and all_images(data) == expected()
    with pytest.raises(UserError, match="give the path of its files.*memory_limit"):
        as_data(Items(list(PIXELS)), memory_limit=100)


@pytest.mark.parametrize("as_path", [str, Path])
def test_paths_and_specs(tmp_path: Path, as_path: Any) -> None:
    """Opened by ``load``."""
    np.save(tmp_path / "x.npy", PIXELS)
    assert all_images(as_data(as_path(tmp_path / "x.npy"))) == expected()
    assert len(as_data("digits", holdout=0.5).held_out) == 898
    with pytest.raises(UserError, match="no such file"):
        as_data(as_path(tmp_path / "nothing.npy"))


def test_images_and_data_of_the_package() -> None:
    """``Data`` is returned as it is, a part of ``Images`` is held out."""
    data = as_data(PIXELS, labels=LABELS)
    assert as_data(data) is data
    images = MemoryImages(torch.from_numpy(PIXELS), torch.from_numpy(LABELS))
    assert all_images(as_data(images)) == expected(LABELS)
    values = torch.stack([torch.arange(12.0), torch.ones(12)], 1)
    attributes = as_data(MemoryImages(torch.from_numpy(PIXELS), values))
    assert attributes.attributes is not None and [a.name for a in attributes.attributes] == ["0", "1"]
    assert attributes.train.labels is not None and torch.equal(attributes.train.labels, values[attributes.train.rows])


class Endless(IterableDataset[Any]):
    """A data set without a length."""

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            yield PIXELS[0]


class NoLength(Dataset[Any]):
    """A data set with access by index only."""

    def __getitem__(self, i: int) -> np.ndarray:
        return PIXELS[i]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (3, {}, "type int is not a data set; give a path"),
        (None, {}, "type NoneType is not a data set"),
        ({"images": PIXELS}, {}, "type dict is not a data set"),
        (b"bytes", {}, "type bytes is not a data set"),
        ((a for a in PIXELS), {}, "no length.*give list"),
        (Endless(), {}, "Endless has no length.*give list"),
        (NoLength(), {}, "NoLength has no length.*give list"),
        (DataLoader(Endless()), {}, "Endless has no length"),
        ([], {}, "the list holds no images"),
        (PIXELS[:0], {}, "the array holds no images"),
        (PIXELS[0, 0], {}, r"the array has shape \(6, 7\)"),
        (torch.zeros(2, 3, 4, 5, 6), {}, r"the tensor has shape \(2, 3, 4, 5, 6\)"),
        (torch.zeros(2, 4, 4, dtype=torch.complex64), {}, "complex64"),
        (np.array([{}, None], dtype=object), {}, "type object"),
        (PIXELS * 10.0, {}, "the array spans 0 to 2550; scale it"),
        (torch.full((2, 4, 4), torch.nan), {}, "not finite"),
        (PIXELS, {"labels": LABELS[:5]}, "12 images but 5 labels"),
        (PIXELS, {"labels": LABELS / 2}, "one whole number or word per image"),
        (PIXELS, {"labels": [[1], [2, 3]]}, "one whole number or word per image"),
        (list(PIXELS), {"labels": [1, 2]}, "12 images but 2 labels"),
        ([Image.new("L", (4, 4)), Image.new("L", (5, 4))], {"labels": [1]}, "2 images but 1 labels"),
        ([PIXELS[0], "file.png"], {}, "item 1 of the list is of type str; make it a Pillow image"),
        ([PIXELS[0], PIXELS], {}, r"item 1 of the list has shape \(12, 3, 6, 7\)"),
        ([(PIXELS[0], 1, 2)], {}, r"item 0 of the list has 3 parts; make it an image or a pair \(image, label\)"),
        ([(PIXELS[0], 1), PIXELS[1]], {}, "only some items of the list have a label"),
        ([PIXELS[0], (PIXELS[1], 1)], {}, "only some items of the list have a label"),
        ([(PIXELS[0], 0.5)], {}, "a label of the list is 0.5; give one whole number or word"),
        ([(PIXELS[0], [1, 2])], {}, "a label of the list is of type list"),
        ([{"x": PIXELS[0]}], {}, "item 0 of the list has the keys x; name the image 'image'"),
        ([PIXELS[0], PIXELS[1] / 255], {}, "the types float64, uint8; convert them to one"),
        ([(a, 1) for a in PIXELS], {"labels": LABELS}, "have labels: leave out"),
        ("digits", {"labels": LABELS}, "labels cannot be given for 'digits'"),
        (PIXELS, {"holdout": 1.5}, "between 0 and 1"),
        (PIXELS, {"size": 0}, "0x0 pixels"),
        (
            MemoryImages(torch.from_numpy(PIXELS), torch.from_numpy(LABELS)),
            {"labels": LABELS},
            "have labels: leave out",
        ),
    ],
)
def test_wrong_input(images: Any, options: dict[str, Any], message: str) -> None:
    """One line that says what is wrong and what to give."""
    with pytest.raises(UserError, match=message) as caught:
        as_data(images, **options)
    assert "\n" not in str(caught.value)


def test_options_with_finished_data() -> None:
    """Their shape is fixed."""
    with pytest.raises(UserError, match="fixed in Data"):
        as_data(as_data(PIXELS), size=8)
