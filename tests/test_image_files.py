"""Image files: they read back as they were written, and a refused path leaves no file."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise.reporting import image_io, plots
from fromnoise.utils.errors import UserError
from shown import noise, pixels


def read_gif(path):
    """Frames as RGB arrays, durations in ms, and the loop count."""
    with Image.open(path) as g:
        frames, durations = [], []
        for i in range(getattr(g, "n_frames", 1)):
            g.seek(i)
            frames.append(pixels(g))
            durations.append(g.info.get("duration", 0))
        return frames, durations, g.info.get("loop")


@pytest.mark.parametrize(("count", "seconds"), [(2, 6.0), (3, 6.0), (7, 2.0), (25, 6.0), (60, 6.0)])
def test_grey_gif_is_lossless(tmp_path, count, seconds):
    """Frames equal the grids; the last one takes a third of the loop, which repeats for ever."""
    frames = [noise(5, 1, 9, 7, seed=s) for s in range(count)]
    image_io.save_gif(frames, tmp_path / "x.gif", seconds=seconds)
    shown, durations, loop = read_gif(tmp_path / "x.gif")
    assert len(shown) == count and loop == 0
    for batch, frame in zip(frames, shown, strict=True):
        assert (frame == pixels(image_io.grid(batch))).all()
    assert len(set(durations[:-1])) == 1
    assert durations[-1] == pytest.approx(sum(durations) / 3, abs=10)
    assert sum(durations) == pytest.approx(1000 * seconds, abs=10 * count)


def test_colour_gif_is_nearly_lossless(tmp_path):
    """A GIF has 256 colours: a few colours differ by a few levels, and no frame is missing."""
    frames = [noise(2, 3, 4, 4, seed=s) for s in range(6)]
    image_io.save_gif(frames, tmp_path / "x.gif")
    shown, _, _ = read_gif(tmp_path / "x.gif")
    assert len(shown) == 6
    for batch, frame in zip(frames, shown, strict=True):
        assert np.abs(frame.astype(int) - pixels(image_io.grid(batch))).mean() < 12


def test_gif_of_one_frame_and_of_many(tmp_path):
    """A frame takes at least 20 ms, the minimum of viewers."""
    image_io.save_gif([noise(1, 1, 8, 8)], tmp_path / "one.gif")
    assert len(read_gif(tmp_path / "one.gif")[0]) == 1
    image_io.save_gif([noise(1, 1, 2, 2, seed=s) for s in range(300)], tmp_path / "many.gif", seconds=1)
    _, durations, _ = read_gif(tmp_path / "many.gif")
    assert len(durations) == 300 and min(durations) == 20


def test_repeated_frames_keep_their_duration(tmp_path):
    """Equal frames do not shorten the animation."""
    still = noise(1, 1, 8, 8)
    image_io.save_gif([still] * 5 + [noise(1, 1, 8, 8, seed=s) for s in range(1, 6)], tmp_path / "a.gif")
    image_io.save_gif([noise(1, 1, 8, 8, seed=s) for s in range(10)], tmp_path / "b.gif")
    assert sum(read_gif(tmp_path / "a.gif")[1]) == sum(read_gif(tmp_path / "b.gif")[1])


# ---- files


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_holds_the_grid(tmp_path, channels):
    """Lossless."""
    images = noise(5, channels, 6, 9)
    image_io.save_images(images, tmp_path / "below" / "x.png")
    with Image.open(tmp_path / "below" / "x.png") as p:
        assert p.format == "PNG" and (pixels(p) == pixels(image_io.grid(images))).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_npz_holds_the_images(tmp_path, channels):
    """Bit for bit, with labels if given, without pickle."""
    images, labels = noise(5, channels, 6, 9), torch.tensor([3, 1, 4, 1, 5])
    image_io.save_images(images, tmp_path / "x.npz")
    image_io.save_images(images, tmp_path / "y.NPZ", labels)
    for name, keys in (("x.npz", {"images"}), ("y.NPZ", {"images", "labels"})):
        with np.load(tmp_path / name, allow_pickle=False) as file:
            assert set(file.files) == keys
            assert file["images"].dtype == np.uint8 and (file["images"] == images.numpy()).all()
            assert "labels" not in keys or file["labels"].tolist() == labels.tolist()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_folder_holds_one_png_per_image(tmp_path, channels, mode):
    """Bit for bit, in the order of their names."""
    images = noise(12, channels, 6, 9)
    image_io.save_images(images, tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert [f.name for f in files] == [f"{i:06d}.png" for i in range(12)]
    for file, image in zip(files, images, strict=True):
        with Image.open(file) as p:
            assert p.mode == mode
            array = np.asarray(p)
        assert (array.reshape(6, 9, channels) == image.numpy().transpose(1, 2, 0)).all()


def test_file_names_in_a_folder(tmp_path):
    """Index of the image and its class."""
    image_io.save_images(noise(3, 1, 4, 4), tmp_path / "out", torch.tensor([7, 0, 7]), range(98, 101))
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["000098_7.png", "000099_0.png", "000100_7.png"]


def test_five_channels_in_a_folder(tmp_path):
    """The first three are saved."""
    images = noise(1, 5, 4, 4)
    image_io.save_images(images, tmp_path / "out")
    with Image.open(tmp_path / "out" / "000000.png") as p:
        assert (np.asarray(p) == images[0, :3].numpy().transpose(1, 2, 0)).all()


# ---- refused paths


@pytest.mark.parametrize("name", ["x.jpg", "x.JPEG", "x.webp", "x.gif", "x.npy", "x.pt", "x.zip", "x.safetensors"])
def test_unsupported_file_types_are_refused(tmp_path, name):
    """The message lists the supported ones; no file is left."""
    with pytest.raises(UserError, match=r"\.png for a grid, \.npz for an array, or a folder"):
        image_io.check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    """Its files stay; an empty folder is accepted."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        image_io.check_writable(tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    image_io.check_writable(tmp_path / "empty")


@pytest.mark.parametrize("name", ["x.png", "x.npz", "out", "deep/down/x.png", "deep/down/out"])
def test_a_file_as_parent_folder_is_refused(tmp_path, name):
    """The message names the file, which is unchanged."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file is a file"):
        image_io.check_writable(tmp_path / "file" / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_named_like_a_file_is_refused(tmp_path):
    """The message says that it is a folder."""
    (tmp_path / "x.png").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        image_io.check_writable(tmp_path / "x.png")


def test_checking_a_path_creates_nothing(tmp_path):
    """Folders are created when images are saved."""
    for name in ("a/b/x.png", "a/b/x.npz", "a/b/out", "x.png"):
        image_io.check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# ---- loss plots

_TIMING = {"seconds": 1.0}
_FULL = [
    {
        "step": 1,
        "loss": 1.0,
        "held_out_loss": 0.9,
        "held_out_loss_raw": 0.95,
        "loss_by_t": [0.1] * 10,
        "timing": _TIMING,
    },
    {"step": 50, "loss": 0.5, "timing": _TIMING},
    {"step": 100, "loss": None, "held_out_loss": 0.4, "held_out_loss_raw": None, "loss_by_t": [None, 0.2] * 5},
]


@pytest.mark.parametrize(
    "reports",
    [
        _FULL,
        _FULL[:1],
        _FULL[1:2],
        _FULL[2:],
        [{"step": 1, "loss": None}],
        [{"step": 1, "loss": 0.5, "held_out_loss": None, "loss_by_t": None}],
        [{"step": 1, "loss": 0.5, "held_out_loss": 0.5, "loss_by_t": [None] * 10}],
        [{"step": 1, "loss": -0.5}, {"step": 2, "loss": 0.0}],
        [{"step": s, "loss": 1 / s, "held_out_loss": 1 / s, "loss_by_t": [1 / s] * 10} for s in range(1, 40)],
    ],
    ids=["full", "first", "no-held-out", "nulls", "nothing", "null-held-out", "null-bins", "not-positive", "many"],
)
def test_loss_plot_of_any_reports(tmp_path, reports):
    """A PNG that is not blank, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.loss_plot(reports, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as p:
        assert p.format == "PNG" and min(p.size) > 200
        assert len(np.unique(pixels(p))) > 10
    assert [f.name for f in tmp_path.iterdir()] == ["loss.png"]


def test_loss_plot_depends_on_the_losses(tmp_path):
    """Another held-out loss gives another plot, the same reports the same file."""
    plots.loss_plot(_FULL, tmp_path / "a.png")
    plots.loss_plot([r | ({"held_out_loss": 0.1} if "held_out_loss" in r else {}) for r in _FULL], tmp_path / "b.png")
    plots.loss_plot(_FULL, tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "c.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_labelled_grid_has_one_row_per_class(tmp_path):
    """In the order of the classes; a class without images has no row."""
    labels = torch.tensor([2, 0, 2, 0, 2])
    values = torch.tensor([10, 20, 30, 40, 50], dtype=torch.uint8)
    images = values.reshape(-1, 1, 1, 1).expand(-1, 1, 40, 40).contiguous()
    sheet = np.asarray(image_io.labelled_grid(images, labels, ("trouser", "bag", "dress")))
    assert sheet.shape[0] == 2 * 40 + 2
    right = sheet[:, -(3 * 40 + 2 * 2) :]
    for row, shown in enumerate(([20, 40, 255], [10, 30, 50])):
        for column, value in enumerate(shown):
            tile = right[row * 42 : row * 42 + 40, column * 42 : column * 42 + 40]
            assert (tile == value).all()
    assert (sheet[:40, : -(3 * 40 + 4)] < 255).any()  # the name
    image_io.save_images(images, tmp_path / "x.png", labels, names=("trouser", "bag", "dress"))
    assert (np.asarray(Image.open(tmp_path / "x.png")) == sheet).all()
