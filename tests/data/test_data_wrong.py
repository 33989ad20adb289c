"""Wrong data: one line that names the mistake and the mend, or the bad picture left out and named."""

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


def fails(told: str, spec: object, **options: object) -> None:
    """Loading fails with one line that has ``told`` in it."""
    with pytest.raises(UserError, match=told) as caught:
        load(str(spec), log=lambda line: None, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message


def test_missing_data(tmp_path: Path) -> None:
    """A path that is not there."""
    fails("no such file", tmp_path / "nothing")


def test_an_empty_folder(tmp_path: Path) -> None:
    """Also with empty folders inside."""
    fails("empty folder", tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    fails("empty folder", tmp_path)


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    """What was found is said."""
    for name in ("a.txt", "b.txt", "c.csv", "README"):
        (tmp_path / name).write_text("words")
    fails("no images .found 2 .txt, 1 without ending, 1 .csv|no images .found 2 .txt", tmp_path)


def test_text_files_called_jpg(tmp_path: Path) -> None:
    """None of them can be read."""
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_text("words")
    fails("none of the images .* can be read .0.jpg: not an image", tmp_path)
    fails("none of the images .* can be read", tmp_path, memory_limit=0)
    fails("none of the images .* can be read", tmp_path, size=8, channels=3)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Ten good JPEGs, one cut short, one of text and one without content."""
    rng = np.random.default_rng(0)
    for i in range(11):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i:02d}.jpg")
    whole = (tmp_path / "04.jpg").read_bytes()
    (tmp_path / "04.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "11.jpg").write_text("words")
    (tmp_path / "12.jpg").write_bytes(b"")
    return tmp_path


def test_a_truncated_jpeg_among_good_ones(damaged: Path, lines: list[str]) -> None:
    """Left out, counted and named, with the reason; the rest is the set."""
    data = load(str(damaged), log=lines.append)
    assert len(data.train) + len(data.held_out) == 10 and data.skipped == 3
    told = next(line for line in lines if "left out" in line)
    assert "3 of 13" in told and "04.jpg (" in told and "runcated" in told
    assert "11.jpg (not an image)" in told and "12.jpg" in told


def test_a_truncated_jpeg_in_a_streamed_set(damaged: Path, lines: list[str]) -> None:
    """Named when it is met, once; whole pictures come in its place."""
    data = load(str(damaged), memory_limit=0, log=lines.append)
    good = {p.numpy().tobytes() for part in [load(str(damaged))] for p in part.train.get(torch.arange(len(part.train)))}
    good |= {p.numpy().tobytes() for p in load(str(damaged)).held_out.get(torch.arange(1))}
    for _ in range(2):
        batch = BatchStream(data.train, 0).batch(range(3 * len(data.train)))
        assert {p.numpy().tobytes() for p in batch.pixels} <= good
    assert sum("04.jpg" in line for line in lines) <= 1
    assert sum("cannot be read" in line for line in lines) <= 3


def test_many_unreadable_pictures_make_one_line(tmp_path: Path, write: Writer, lines: list[str]) -> None:
    """Ten are named, the rest counted."""
    write(tmp_path, ["good.png"])
    for i in range(25):
        (tmp_path / f"{i:02d}.png").write_bytes(b"bad")
    data = load(str(tmp_path), log=lines.append)
    told = [line for line in lines if "left out" in line]
    assert data.skipped == 25 and len(told) == 1
    assert "09.png" in told[0] and "10.png" not in told[0] and "15 more" in told[0]


def test_mixed_sizes_and_channels_at_once(tmp_path: Path, lines: list[str]) -> None:
    """1x1 up to 100x31, grey, paletted, with alpha, 16 bits: one set of one shape."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (1, 1, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(rng.integers(0, 256, (100, 31), dtype=np.uint8)).save(tmp_path / "b.png")
    Image.fromarray(rng.integers(0, 256, (28, 28, 4), dtype=np.uint8)).save(tmp_path / "c.png")
    Image.fromarray(rng.integers(0, 65536, (31, 31)).astype(np.uint16)).save(tmp_path / "d.png")
    Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)).convert("P").save(tmp_path / "e.gif")
    data = load(str(tmp_path), log=lines.append)
    assert data.shape == (3, 31, 31) and data.skipped == 0
    assert any("1x1 to 100x31" in line for line in lines)


def test_an_npz_of_floats_and_one_of_the_wrong_rank(tmp_path: Path, lines: list[str]) -> None:
    """Floats in a usual range are pictures; two axes are none."""
    unit = np.random.default_rng(0).random((4, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", images=unit)
    data = load(str(tmp_path / "x.npz"), log=lines.append)
    got = data.train.get(torch.arange(3)).float() / 255
    distance = (got[:, None] - torch.from_numpy(unit)).abs().amax((2, 3, 4)).min(1).values
    assert data.shape == (3, 8, 8) and (distance <= 0.5 / 255 + 1e-6).all()
    assert any("[0, 1]" in line for line in lines)
    np.savez(tmp_path / "y.npz", images=unit[0, 0])
    fails(r"shape \(8, 8\)", tmp_path / "y.npz")


def test_an_array_of_no_pictures(tmp_path: Path) -> None:
    """N = 0."""
    np.save(tmp_path / "x.npy", np.zeros((0, 8, 8), dtype=np.uint8))
    fails("holds no images", tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("options", "told"),
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
def test_wishes_that_cannot_be(tmp_path: Path, write: Writer, options: dict, told: str) -> None:
    """Sizes, channels and shares that make no sense."""
    write(tmp_path, ["a.png", "b.png"])
    fails(told, tmp_path, **options)


def test_a_picture_larger_than_pillow_allows(
    tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """A decompression bomb is left out like any picture that cannot be read."""
    write(tmp_path, ["a.png", "b.png"], 4, 4)
    write(tmp_path, ["bomb.png"], 60, 60)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = load(str(tmp_path), log=lines.append)
    assert data.skipped == 1 and any("bomb.png" in line for line in lines)


def test_an_own_split_that_cannot_be_read(tmp_path: Path, write: Writer) -> None:
    """A test folder of broken pictures is an error and not an empty held-out part."""
    write(tmp_path, ["train/a.png", "train/b.png"])
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.png").write_bytes(b"bad")
    fails("none of the images .*c.png", tmp_path)
