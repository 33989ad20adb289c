"""Missing, damaged and wrong data: one line with the remedy, or the image is left out and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise.data import BatchStream, load
from fromnoise.utils.errors import UserError

Writer = Callable[..., list[np.ndarray]]


def fails(message: str, spec: object, **options: object) -> None:
    """Check that loading fails with one line that matches ``message``."""
    with pytest.raises(UserError, match=message) as caught:
        load(str(spec), log=lambda line: None, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text


def test_missing_path(tmp_path: Path) -> None:
    """A path that does not exist."""
    fails("no such file", tmp_path / "nothing")


def test_empty_folder(tmp_path: Path) -> None:
    """Also with empty sub-folders."""
    fails("empty folder", tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    fails("empty folder", tmp_path)


def test_folder_of_text_files(tmp_path: Path) -> None:
    """The error says what was found."""
    for name in ("a.txt", "b.txt", "c.csv", "README"):
        (tmp_path / name).write_text("words")
    fails("no images .found 2 .txt, 1 without suffix, 1 .csv", tmp_path)


def test_text_files_called_jpg(tmp_path: Path) -> None:
    """None of them can be decoded."""
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_text("words")
    fails("none of the images .* can be read .0.jpg: not an image", tmp_path)
    fails("none of the images .* can be read", tmp_path, memory_limit=0)
    fails("none of the images .* can be read", tmp_path, size=8, channels=3)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Ten good JPEGs, one truncated, one of text and one empty."""
    rng = np.random.default_rng(0)
    for i in range(11):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i:02d}.jpg")
    whole = (tmp_path / "04.jpg").read_bytes()
    (tmp_path / "04.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "11.jpg").write_text("words")
    (tmp_path / "12.jpg").write_bytes(b"")
    return tmp_path


def test_damaged_images_are_left_out(damaged: Path, lines: list[str]) -> None:
    """They are counted and named with the reason."""
    data = load(str(damaged), log=lines.append)
    assert len(data.train) + len(data.held_out) == 10 and data.skipped == 3
    line = next(line for line in lines if "left out" in line)
    assert "3 of 13" in line and "04.jpg (" in line and "runcated" in line
    assert "11.jpg (not an image)" in line and "12.jpg" in line


def test_damaged_images_in_streamed_data(damaged: Path, lines: list[str]) -> None:
    """Each is named once when it is read; good images are used instead."""
    data = load(str(damaged), memory_limit=0, log=lines.append)
    good = {p.numpy().tobytes() for part in [load(str(damaged))] for p in part.train.get(torch.arange(len(part.train)))}
    good |= {p.numpy().tobytes() for p in load(str(damaged)).held_out.get(torch.arange(1))}
    for _ in range(2):
        batch = BatchStream(data.train, 0).batch(range(3 * len(data.train)))
        assert {p.numpy().tobytes() for p in batch.pixels} <= good
    assert sum("04.jpg" in line for line in lines) <= 1
    assert sum("cannot be read" in line for line in lines) <= 3


def test_many_unreadable_images_give_one_line(tmp_path: Path, write: Writer, lines: list[str]) -> None:
    """Ten are named, the others counted."""
    write(tmp_path, ["good.png"])
    for i in range(25):
        (tmp_path / f"{i:02d}.png").write_bytes(b"bad")
    data = load(str(tmp_path), log=lines.append)
    found = [line for line in lines if "left out" in line]
    assert data.skipped == 25 and len(found) == 1
    assert "09.png" in found[0] and "10.png" not in found[0] and "15 more" in found[0]


def test_mixed_sizes_and_modes(tmp_path: Path, lines: list[str]) -> None:
    """1x1 to 100x31, grey, with palette, with alpha, 16 bits: all are brought to one shape."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (1, 1, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(rng.integers(0, 256, (100, 31), dtype=np.uint8)).save(tmp_path / "b.png")
    Image.fromarray(rng.integers(0, 256, (28, 28, 4), dtype=np.uint8)).save(tmp_path / "c.png")
    Image.fromarray(rng.integers(0, 65536, (31, 31)).astype(np.uint16)).save(tmp_path / "d.png")
    Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)).convert("P").save(tmp_path / "e.gif")
    data = load(str(tmp_path), log=lines.append)
    assert data.shape == (3, 31, 31) and data.skipped == 0
    assert any("1x1 to 100x31" in line for line in lines)


def test_npz_files_of_floats_and_of_wrong_rank(tmp_path: Path, lines: list[str]) -> None:
    """Floats in a usual range are images; an array of two axes is refused."""
    floats = np.random.default_rng(0).random((4, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", images=floats)
    data = load(str(tmp_path / "x.npz"), log=lines.append)
    got = data.train.get(torch.arange(3)).float() / 255
    distance = (got[:, None] - torch.from_numpy(floats)).abs().amax((2, 3, 4)).min(1).values
    assert data.shape == (3, 8, 8) and (distance <= 0.5 / 255 + 1e-6).all()
    assert any("[0, 1]" in line for line in lines)
    np.savez(tmp_path / "y.npz", images=floats[0, 0])
    fails(r"shape \(8, 8\)", tmp_path / "y.npz")


def test_array_without_images(tmp_path: Path) -> None:
    """N = 0."""
    np.save(tmp_path / "x.npy", np.zeros((0, 8, 8), dtype=np.uint8))
    fails("holds no images", tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "0x0 pixels"),
        ({"size": (8, -1)}, "8x-1 pixels"),
        ({"channels": 0}, "0 channels"),
        ({"channels": 7}, "7 channels"),
        ({"holdout": 0.0}, "between 0 and 1"),
        ({"holdout": 1.0}, "between 0 and 1"),
        ({"holdout": float("nan")}, "between 0 and 1"),
    ],
)
def test_options_out_of_range(tmp_path: Path, write: Writer, options: dict, message: str) -> None:
    """Sizes, channels and shares of held-out images."""
    write(tmp_path, ["a.png", "b.png"])
    fails(message, tmp_path, **options)


def test_image_larger_than_the_limit_of_pillow(
    tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """A decompression bomb is left out like any unreadable image."""
    write(tmp_path, ["a.png", "b.png"], 4, 4)
    write(tmp_path, ["bomb.png"], 60, 60)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = load(str(tmp_path), log=lines.append)
    assert data.skipped == 1 and any("bomb.png" in line for line in lines)


def test_unreadable_test_split(tmp_path: Path, write: Writer) -> None:
    """A test folder of damaged images is an error, and not an empty held-out part."""
    write(tmp_path, ["train/a.png", "train/b.png"])
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.png").write_bytes(b"bad")
    fails("none of the images .*c.png", tmp_path)
