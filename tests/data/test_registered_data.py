"""Formats and named data sets that are registered outside of the package are opened by SPEC."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from fromnoise import registry
from fromnoise.data import DownloadedDataset, Format, ImageFormat, NamedDataset, Splits, load, open_source
from fromnoise.data.arrays import array_splits
from fromnoise.data.source import Log
from fromnoise.registry import register
from fromnoise.utils.errors import UserError

IMAGES = np.random.default_rng(2).integers(0, 256, (6, 4, 5), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Components that a test registers are gone after it."""
    monkeypatch.setattr(registry, "_COMPONENTS", {name: dict(known) for name, known in registry._COMPONENTS.items()})


class RawImage(ImageFormat):
    """4x5 grey images of 20 bytes each."""

    suffixes = (".rawimg",)

    def read(self, file: Path | BinaryIO) -> np.ndarray:
        """Read 20 bytes."""
        content = file.read_bytes() if isinstance(file, Path) else file.read()
        return np.frombuffer(content, dtype=np.uint8).reshape(4, 5)


class RawStack(Format):
    """4x5 grey images, one after the other."""

    suffixes = (".rawstack",)
    several_files = True

    def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
        """Read the files of each split."""
        arrays = {Path(n).stem: np.fromfile(root / n, dtype=np.uint8).reshape(-1, 4, 5) for n in names}
        return array_splits(arrays if len(arrays) > 1 else {"all": next(iter(arrays.values()))}, {}, root.name, log)


def pixels(spec: object) -> np.ndarray:
    """All images of a SPEC."""
    source = open_source(str(spec))
    return np.stack([np.asarray(source.read(i)) for i in range(len(source))])


def test_own_image_format(tmp_path: Path) -> None:
    """One file, a folder with class folders and an archive are read as for the formats of the package."""
    register("format", "rawimg")(RawImage)
    for i, image in enumerate(IMAGES):
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.rawimg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.tobytes())
    assert np.array_equal(pixels(tmp_path / "set" / "b" / "3.rawimg"), IMAGES[3:4])
    data = load(str(tmp_path / "set"))
    assert data.shape == (1, 4, 5) and data.class_names == ("a", "b")
    assert np.array_equal(pixels(tmp_path / "set"), IMAGES[[0, 2, 4, 1, 3, 5]])
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in (tmp_path / "set").rglob("*.rawimg"):
            archive.write(path, path.relative_to(tmp_path / "set"))
    assert np.array_equal(pixels(tmp_path / "x.zip"), IMAGES[[0, 2, 4, 1, 3, 5]])


def test_own_data_format(tmp_path: Path) -> None:
    """One file is a data set; several files in a folder are its splits."""
    register("format", "rawstack")(RawStack)
    IMAGES[:4].tofile(tmp_path / "train.rawstack")
    IMAGES[4:].tofile(tmp_path / "test.rawstack")
    assert np.array_equal(pixels(tmp_path / "train.rawstack"), IMAGES[:4])
    assert np.array_equal(pixels(f"{tmp_path}:test"), IMAGES[4:])
    data = load(str(tmp_path))
    assert (len(data.train), len(data.held_out)) == (4, 2)


def test_own_format_replaces_that_of_the_package(tmp_path: Path) -> None:
    """Of two formats with one suffix the one registered later is used."""
    np.save(tmp_path / "x.npy", IMAGES)

    @register("format", "brighter-npy")
    class Brighter(Format):
        """Arrays, brighter by one."""

        suffixes = (".npy",)

        def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
            """Add one."""
            return array_splits({"all": np.load(root / names[0], allow_pickle=False) + np.uint8(1)}, {}, "x", log)

    assert np.array_equal(pixels(tmp_path / "x.npy"), IMAGES + np.uint8(1))


def test_unknown_suffix_lists_the_registered_formats(tmp_path: Path) -> None:
    """Those of plug-ins as well."""
    register("format", "rawimg")(RawImage)
    (tmp_path / "x.other").write_bytes(b"")
    with pytest.raises(UserError, match=r"registered formats.*\.npz.*\.rawimg") as caught:
        open_source(str(tmp_path / "x.other"))
    assert "\n" not in str(caught.value)


def test_class_that_is_no_format(tmp_path: Path) -> None:
    """The error names the class."""
    register("format", "nothing")(type("Nothing", (), {}))
    np.save(tmp_path / "x.npy", IMAGES)
    with pytest.raises(TypeError, match="Nothing must extend Format"):
        open_source(str(tmp_path / "x.npy"))


def test_own_data_set_as_a_function() -> None:
    """Arrays, pairs of images and labels, or a dictionary of splits."""

    @register("dataset", "stripes")
    def stripes() -> np.ndarray:
        """Six images."""
        return IMAGES

    @register("dataset", "labelled-stripes")
    def labelled_stripes() -> dict[str, tuple[np.ndarray, list[str]]]:
        """Six images in two classes."""
        return {"train": (IMAGES[:4], ["x", "y", "x", "y"]), "test": (IMAGES[4:], ["y", "x"])}

    assert np.array_equal(pixels("stripes"), IMAGES)
    data = load("labelled-stripes")
    assert data.class_names == ("x", "y") and (len(data.train), len(data.held_out)) == (4, 2)
    assert data.held_out.labels is not None and data.held_out.labels.tolist() == [1, 0]


def test_own_data_set_with_too_many_values() -> None:
    """The error says what to return."""
    register("dataset", "triple")(lambda: (IMAGES, IMAGES, IMAGES))
    with pytest.raises(UserError, match=r"returns 3 values; return images, or \(images, labels\)"):
        load("triple")


def test_own_data_set_as_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own ``open``, or in a folder below $FROMNOISE_DATA."""

    @register("dataset", "own")
    class Own(NamedDataset):
        """Six images."""

        def open(self, log: Log) -> Splits:
            """Log and return them."""
            log("opened")
            return array_splits({"all": IMAGES}, {}, "own", log)

    @register("dataset", "own-folder")
    class OwnFolder(DownloadedDataset):
        """Six images in a folder."""

        name = "own-folder"
        files = ()

        def find(self, parent: Path, log: Log) -> Splits | None:
            """In a .npy file."""
            path = parent / self.name / "images.npy"
            return (
                array_splits({"all": np.load(path, allow_pickle=False)}, {}, self.name, log) if path.exists() else None
            )

    lines: list[str] = []
    assert len(load("own", log=lines.append).train) == 5 and lines[0] == "opened"
    (tmp_path / "own-folder").mkdir()
    np.save(tmp_path / "own-folder" / "images.npy", IMAGES)
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    assert np.array_equal(pixels("own-folder"), IMAGES)


def test_unknown_name_lists_the_registered_data_sets() -> None:
    """Those of plug-ins as well; a similar name is suggested."""
    register("dataset", "stripes")(lambda: IMAGES)
    with pytest.raises(UserError, match="no data set and no such file.*digits.*mnist.*stripes") as caught:
        open_source("something-else")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="did you mean 'stripes'"):
        open_source("strips")
