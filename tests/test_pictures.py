"""Pictures: every pixel where it belongs, files that read back as what was written, nothing left after a refusal."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fromnoise import pictures
from fromnoise.errors import UserError


def noise(*shape, seed=0):
    """Random uint8 images."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pixels(picture):
    """A picture as (H, W, 3)."""
    return np.asarray(picture.convert("RGB"))


# ---- grids


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 11),
    channels=st.sampled_from([1, 3, 5]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    columns=st.none() | st.integers(1, 12),
    gap=st.integers(0, 4),
    scale=st.integers(1, 3),
)
def test_every_pixel_of_a_grid(n, channels, height, width, columns, gap, scale):
    """Pixel (y, x) of image i is a block at its place; all else is white paper."""
    images = noise(n, channels, height, width)
    sheet = pixels(pictures.grid(images, columns, gap, scale))
    across = columns or math.ceil(n**0.5)
    down = -(-n // across)
    expected = np.full(
        (down * height * scale + (down - 1) * gap, across * width * scale + (across - 1) * gap, 3), 255, np.uint8
    )
    for i in range(n):
        row, column = divmod(i, across)
        for y in range(height * scale):
            for x in range(width * scale):
                value = images[i, :, y // scale, x // scale].tolist()
                colour = value * 3 if channels == 1 else value[:3]
                expected[row * (height * scale + gap) + y, column * (width * scale + gap) + x] = colour
    assert sheet.shape == expected.shape
    assert (sheet == expected).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 10, 16, 17, 64, 100])
def test_a_grid_is_nearly_square(n):
    """No more than one row fewer than columns, and no row empty."""
    sheet = pictures.grid(torch.zeros(n, 1, 4, 4, dtype=torch.uint8), gap=0, scale=1)
    across, down = sheet.width // 4, sheet.height // 4
    assert 0 <= across - down <= 1 and (down - 1) * across < n <= down * across


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_is_laid_on_white(channels):
    """Opaque shows the colour, transparent the paper, half the middle."""
    images = torch.full((1, channels, 1, 3), 100, dtype=torch.uint8)
    images[0, -1, 0] = torch.tensor([255, 0, 51])  # 51 is a fifth
    sheet = pixels(pictures.grid(images, scale=1))
    assert sheet[0, :, 0].tolist() == [100, 255, 224] and (sheet == sheet[..., :1]).all()


@pytest.mark.parametrize(("side", "least"), [(1, 40), (8, 40), (28, 40), (32, 40), (33, 33), (64, 64), (100, 100)])
def test_small_images_are_magnified(side, least):
    """By whole numbers, to be seen and not to be huge; larger ones stay as they are."""
    shown = pictures.grid(noise(1, 1, side, side)).width
    assert shown % side == 0 and least <= shown <= max(64, side)


def test_images_that_are_not_square_are_magnified_alike():
    """Height and width by the same factor."""
    sheet = pictures.grid(noise(1, 3, 8, 16))
    assert sheet.width == 2 * sheet.height > 16


@pytest.mark.parametrize("wrong", [torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)])
def test_only_bytes_are_pictures(wrong):
    """Floats of an unknown range are not guessed at."""
    with pytest.raises((ValueError, IndexError)):
        pictures.grid(wrong)


# ---- strips


def levels(picture, rows):
    """Grey levels, from left to right, of the tiles in the last ``rows`` rows of a strip of constant tiles."""
    line = pixels(picture)[-rows:]
    assert (line == line[:1]).all()
    seen = []
    for value in line[0, :, 0].tolist():
        if value != 255 and (not seen or seen[-1] != value):
            seen.append(value)
    return seen


def constant(*values, n=1, side=32):
    """Batches of one grey level each."""
    return [torch.full((n, 1, side, side), v, dtype=torch.uint8) for v in values]


def ink(picture, left, right, height):
    """How many pixels of the head are not paper."""
    return int((pixels(picture)[:height, left:right] < 200).sum())


def test_a_strip_has_a_captioned_column_a_batch():
    """The pictures below in order, row i image i, and ink over each."""
    batches = [noise(3, 3, 40, 50, seed=s) for s in range(4)]
    picture = pictures.strip(batches, ["a", "b", "c", "d"])
    column = pixels(pictures.grid(batches[0], columns=1))
    head = picture.height - column.shape[0]
    assert head > 8
    left = 0
    for batch in batches:
        expected = pixels(pictures.grid(batch, columns=1))
        body = pixels(picture)[head:]
        places = [x for x in range(left, picture.width - 49) if (body[:, x : x + 50] == expected).all()]
        assert len(places) == 1
        left = places[0] + 50
        assert ink(picture, places[0], left, head) > 5
    assert ink(pictures.strip(batches, [""] * 4), 0, picture.width, head) == 0


def test_a_strip_needs_a_caption_a_column():
    """None is left out silently."""
    with pytest.raises(ValueError):
        pictures.strip(constant(1, 2), ["one"])


def test_a_long_caption_has_room():
    """Narrow columns are widened, captions never run into each other."""
    batches = constant(10, 20, side=33)
    words = "a caption wider than its column"
    wide = pictures.strip(batches, [words, words])
    alone = pictures.strip(batches[:1], [words])
    assert wide.width >= 2 * alone.width


def test_the_forward_strip_goes_from_image_to_noise():
    """Captions in percent of the way."""
    batches = constant(10, 20, 30)
    made = pictures.forward_strip(batches, [0.0, 0.5, 1.0])
    assert levels(made, 32) == [10, 20, 30]
    assert (pixels(made) == pixels(pictures.strip(batches, ["0%", "50%", "100%"]))).all()


def test_the_reverse_strip_shows_first_and_last():
    """Ten of many, equally spaced; all of few."""
    frames = constant(*range(1, 201, 2))
    times = [1 - i / 99 for i in range(100)]
    shown = levels(pictures.reverse_strip(frames, times, columns=10), 32)
    assert shown == list(range(1, 201, 22))
    assert levels(pictures.reverse_strip(frames[:3], times[:3]), 32) == [1, 3, 5]
    two = pictures.reverse_strip(frames, times, columns=2)
    assert (pixels(two) == pixels(pictures.strip([frames[0], frames[-1]], ["100%", "0%"]))).all()


def test_side_by_side_keeps_the_pictures():
    """Of different heights, each under its title."""
    a, b = pictures.grid(noise(4, 3, 40, 40)), pictures.grid(noise(1, 3, 50, 50, seed=1))
    both = pictures.side_by_side([("a", a), ("b", b)], gap=12)
    assert both.width == a.width + 12 + b.width and both.height > max(a.height, b.height)
    head = both.height - max(a.height, b.height)
    assert (pixels(both)[head : head + a.height, : a.width] == pixels(a)).all()
    assert (pixels(both)[head : head + b.height, -b.width :] == pixels(b)).all()


# ---- GIFs


def opened(path):
    """Frames as RGB arrays, durations in ms, and the loop count of a GIF."""
    with Image.open(path) as g:
        frames, durations = [], []
        for i in range(getattr(g, "n_frames", 1)):
            g.seek(i)
            frames.append(pixels(g))
            durations.append(g.info.get("duration", 0))
        return frames, durations, g.info.get("loop")


@pytest.mark.parametrize(("count", "seconds"), [(2, 6.0), (3, 6.0), (7, 2.0), (25, 6.0), (60, 6.0)])
def test_a_grey_gif_is_exact(tmp_path, count, seconds):
    """Frame by frame the grids; the last is held for a third of the round, which repeats for ever."""
    frames = [noise(5, 1, 9, 7, seed=s) for s in range(count)]
    pictures.gif(frames, tmp_path / "x.gif", seconds=seconds)
    shown, durations, loop = opened(tmp_path / "x.gif")
    assert len(shown) == count and loop == 0
    for batch, frame in zip(frames, shown, strict=True):
        assert (frame == pixels(pictures.grid(batch))).all()
    assert len(set(durations[:-1])) == 1
    assert durations[-1] == pytest.approx(sum(durations) / 3, abs=10)
    assert sum(durations) == pytest.approx(1000 * seconds, abs=10 * count)


def test_a_coloured_gif_is_near(tmp_path):
    """A GIF has 256 colours: few colours are kept to a few levels, and all frames are there."""
    frames = [noise(2, 3, 4, 4, seed=s) for s in range(6)]
    pictures.gif(frames, tmp_path / "x.gif")
    shown, _, _ = opened(tmp_path / "x.gif")
    assert len(shown) == 6
    for batch, frame in zip(frames, shown, strict=True):
        assert np.abs(frame.astype(int) - pixels(pictures.grid(batch))).mean() < 12


def test_a_gif_of_one_frame_and_of_many(tmp_path):
    """One is a still; many take 20 ms each at least, which viewers can show."""
    pictures.gif([noise(1, 1, 8, 8)], tmp_path / "one.gif")
    assert len(opened(tmp_path / "one.gif")[0]) == 1
    pictures.gif([noise(1, 1, 2, 2, seed=s) for s in range(300)], tmp_path / "many.gif", seconds=1)
    _, durations, _ = opened(tmp_path / "many.gif")
    assert len(durations) == 300 and min(durations) == 20


def test_frames_that_repeat_keep_their_time(tmp_path):
    """A reverse process that stands still at first is as long as one that does not."""
    still = noise(1, 1, 8, 8)
    pictures.gif([still] * 5 + [noise(1, 1, 8, 8, seed=s) for s in range(1, 6)], tmp_path / "a.gif")
    pictures.gif([noise(1, 1, 8, 8, seed=s) for s in range(10)], tmp_path / "b.gif")
    assert sum(opened(tmp_path / "a.gif")[1]) == sum(opened(tmp_path / "b.gif")[1])


# ---- files


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_is_the_grid(tmp_path, channels):
    """Without loss."""
    images = noise(5, channels, 6, 9)
    pictures.save_images(images, tmp_path / "below" / "x.png")
    with Image.open(tmp_path / "below" / "x.png") as p:
        assert p.format == "PNG" and (pixels(p) == pixels(pictures.grid(images))).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_an_npz_holds_the_images(tmp_path, channels):
    """Bit for bit, labels where asked, and no pickle in it."""
    images, labels = noise(5, channels, 6, 9), torch.tensor([3, 1, 4, 1, 5])
    pictures.save_images(images, tmp_path / "x.npz")
    pictures.save_images(images, tmp_path / "y.NPZ", labels)
    for name, keys in (("x.npz", {"images"}), ("y.NPZ", {"images", "labels"})):
        with np.load(tmp_path / name, allow_pickle=False) as file:
            assert set(file.files) == keys
            assert file["images"].dtype == np.uint8 and (file["images"] == images.numpy()).all()
            assert "labels" not in keys or file["labels"].tolist() == labels.tolist()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_a_folder_holds_a_png_an_image(tmp_path, channels, mode):
    """Bit for bit, in order of their names."""
    images = noise(12, channels, 6, 9)
    pictures.save_images(images, tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert [f.name for f in files] == [f"{i:06d}.png" for i in range(12)]
    for file, image in zip(files, images, strict=True):
        with Image.open(file) as p:
            assert p.mode == mode
            array = np.asarray(p)
        assert (array.reshape(6, 9, channels) == image.numpy().transpose(1, 2, 0)).all()


def test_names_in_a_folder(tmp_path):
    """They begin with the number of the picture and end with its class."""
    pictures.save_images(noise(3, 1, 4, 4), tmp_path / "out", torch.tensor([7, 0, 7]), range(98, 101))
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["000098_7.png", "000099_0.png", "000100_7.png"]


def test_five_channels_in_a_folder(tmp_path):
    """The first three are shown."""
    images = noise(1, 5, 4, 4)
    pictures.save_images(images, tmp_path / "out")
    with Image.open(tmp_path / "out" / "000000.png") as p:
        assert (np.asarray(p) == images[0, :3].numpy().transpose(1, 2, 0)).all()


# ---- refusals


@pytest.mark.parametrize("name", ["x.jpg", "x.JPEG", "x.webp", "x.gif", "x.npy", "x.pt", "x.zip", "x.safetensors"])
def test_other_kinds_of_files_are_refused(tmp_path, name):
    """The line says what there is instead; nothing is left."""
    with pytest.raises(UserError, match=r"\.png for a grid, \.npz for an array, or a folder"):
        pictures.check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    """What is in it stays; an empty one is fine."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        pictures.check_writable(tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    pictures.check_writable(tmp_path / "empty")


@pytest.mark.parametrize("name", ["x.png", "x.npz", "out", "deep/down/x.png", "deep/down/out"])
def test_a_file_in_the_way_is_refused(tmp_path, name):
    """The file is named, and stays as it was."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file is a file"):
        pictures.check_writable(tmp_path / "file" / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_called_like_a_file_is_refused(tmp_path):
    """A name inside it is asked for."""
    (tmp_path / "x.png").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        pictures.check_writable(tmp_path / "x.png")


def test_looking_makes_nothing(tmp_path):
    """Folders are made when there is something to put into them."""
    for name in ("a/b/x.png", "a/b/x.npz", "a/b/out", "x.png"):
        pictures.check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# ---- curves

_CLOCK = {"seconds": 1.0}
_FULL = [
    {"step": 1, "loss": 1.0, "held_out": 0.9, "held_out_raw": 0.95, "loss_by_t": [0.1] * 10, "clock": _CLOCK},
    {"step": 50, "loss": 0.5, "clock": _CLOCK},
    {"step": 100, "loss": None, "held_out": 0.4, "held_out_raw": None, "loss_by_t": [None, 0.2] * 5},
]


@pytest.mark.parametrize(
    "reports",
    [
        _FULL,
        _FULL[:1],
        _FULL[1:2],
        _FULL[2:],
        [{"step": 1, "loss": None}],
        [{"step": 1, "loss": 0.5, "held_out": None, "loss_by_t": None}],
        [{"step": 1, "loss": 0.5, "held_out": 0.5, "loss_by_t": [None] * 10}],
        [{"step": 1, "loss": -0.5}, {"step": 2, "loss": 0.0}],
        [{"step": s, "loss": 1 / s, "held_out": 1 / s, "loss_by_t": [1 / s] * 10} for s in range(1, 40)],
    ],
    ids=["full", "first", "no-held-out", "nulls", "nothing", "null-held-out", "null-bins", "not-positive", "many"],
)
def test_a_plot_of_any_reports(tmp_path, reports):
    """A PNG with something on it, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.loss_plot(reports, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as p:
        assert p.format == "PNG" and min(p.size) > 200
        assert len(np.unique(pixels(p))) > 10
    assert [f.name for f in tmp_path.iterdir()] == ["loss.png"]


def test_a_plot_shows_the_losses(tmp_path):
    """Another held-out loss is another picture."""
    pictures.loss_plot(_FULL, tmp_path / "a.png")
    pictures.loss_plot([r | ({"held_out": 0.1} if "held_out" in r else {}) for r in _FULL], tmp_path / "b.png")
    pictures.loss_plot(_FULL, tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "c.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_labelled_grid_has_a_row_a_class(tmp_path):
    """Each image in the row of its class, in the order of the classes; a class without images has none."""
    labels = torch.tensor([2, 0, 2, 0, 2])
    values = torch.tensor([10, 20, 30, 40, 50], dtype=torch.uint8)
    images = values.reshape(-1, 1, 1, 1).expand(-1, 1, 40, 40).contiguous()
    sheet = np.asarray(pictures.labelled_grid(images, labels, ("trouser", "bag", "dress")))
    assert sheet.shape[0] == 2 * 40 + 2
    right = sheet[:, -(3 * 40 + 2 * 2) :]
    for row, shown in enumerate(([20, 40, 255], [10, 30, 50])):
        for column, value in enumerate(shown):
            tile = right[row * 42 : row * 42 + 40, column * 42 : column * 42 + 40]
            assert (tile == value).all()
    assert (sheet[:40, : -(3 * 40 + 4)] < 255).any()  # the name
    pictures.save_images(images, tmp_path / "x.png", labels, names=("trouser", "bag", "dress"))
    assert (np.asarray(Image.open(tmp_path / "x.png")) == sheet).all()
