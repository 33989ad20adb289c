"""Training from the command line on unusual data: odd sizes, damaged files, labels, paths."""

from __future__ import annotations

import numpy as np
import pytest

from fromnoise import checkpoint
from fromnoise import config as recipes


@pytest.fixture
def learn(right, small, tmp_path):
    """Train the recipe ``images`` for two steps on data, sample two images, and return images and log.

    The recipe's size is left out, so that images keep their size.
    """
    own = recipes.load("images")
    own = own.model_copy(update={"data": own.data.model_copy(update={"size": None})})

    def learner(data, *words):
        (tmp_path / "own.toml").write_text(recipes.to_toml(own))
        said = right("train", "own.toml", "--data", data, "--steps", 2, "--out", "run", *small, *words)
        right("sample", "run", "-n", 2, "--out", "x.npz", "--steps", 2)
        with np.load("x.npz") as file:
            return file["images"], said.err

    return learner


@pytest.fixture
def damaged(tmp_path, paint):
    """Nine good images and a truncated JPEG."""
    paint(tmp_path / "some", [f"{i}.jpg" for i in range(10)], 16, 16)
    content = (tmp_path / "some" / "4.jpg").read_bytes()
    (tmp_path / "some" / "4.jpg").write_bytes(content[: len(content) // 2])


def test_damaged_image_is_left_out(learn, damaged):
    """It is counted and named; the model is trained on the others."""
    images, said = learn("some")
    assert images.shape == (2, 3, 16, 16)
    assert "left out 1 of 10" in said and "4.jpg" in said


def test_recipe_images_with_a_folder(right, small, damaged):
    """The command of the README."""
    said = right("train", "images", "--data", "some", "--steps", 2, *small)
    assert "left out 1 of 10" in said.err and checkpoint.load_model("runs/images").progress == {"step": 2}


def test_damaged_image_in_the_log(learn, damaged, tmp_path):
    """The log of the run names it."""
    learn("some")
    assert "4.jpg" in (tmp_path / "run" / "log").read_text()


def test_mixed_sizes_and_channels(learn, tmp_path, paint):
    """Images are brought to one shape, and the log says so."""
    for i, (height, width, channels) in enumerate([(20, 30, 3), (30, 20, 1), (25, 25, 4), (9, 40, 3), (22, 22, 1)]):
        paint(tmp_path / "some", [f"{i}.png"], height, width, channels)
    images, said = learn("some")
    assert images.shape[1] == 3 and images.shape[2] == images.shape[3]
    assert "resized" in said


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(1, 1, 3), (28, 28, 1), (31, 31, 3), (13, 21, 1), (7, 3, 3), (100, 100, 3)]
)
def test_any_size(learn, tmp_path, paint, height, width, channels):
    """Also odd sizes and images that are not square; grey stays grey."""
    paint(tmp_path / "some", [f"{i}.png" for i in range(4)], height, width, channels)
    images, _ = learn("some")
    assert images.shape == (2, channels, height, width)


def test_two_levels_on_an_odd_size(learn, tmp_path, paint):
    """A network that downsamples twice."""
    paint(tmp_path / "some", [f"{i}.png" for i in range(4)], 13, 9)
    images, _ = learn("some", "--network.multipliers", "[1, 2, 2]", "--network.attention_resolutions", "[4]")
    assert images.shape == (2, 3, 13, 9)


@pytest.mark.parametrize(
    ("shape", "sampled"), [((12, 9, 9), (1, 9, 9)), ((12, 9, 9, 3), (3, 9, 9)), ((12, 3, 9, 9), (3, 9, 9))]
)
def test_array(learn, tmp_path, shape, sampled):
    """Of bytes, with the channels first, last or without channels."""
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=array)
    images, _ = learn("x.npz")
    assert images.shape == (2, *sampled)


def test_single_image(learn, tmp_path, paint):
    """It is trained on and held out, and the log says so."""
    paint(tmp_path / "some", ["x.png"])
    images, said = learn("some")
    assert images.shape == (2, 3, 8, 8) and "only one image" in said


def test_labels_from_folders(learn, right, tmp_path, paint):
    """The names of the folders are the classes."""
    paint(tmp_path / "some", [f"{c}/{i}.png" for c in ("cat", "dog", "owl") for i in range(4)])
    learn("some", "--data.labels", "true")
    assert checkpoint.load_model(tmp_path / "run").model.dataset_info.class_names == ("cat", "dog", "owl")
    right("sample", "run", "-n", 3, "--out", "y.npz", "--label", "Owl,cat", "--steps", 2)
    with np.load("y.npz") as file:
        assert file["labels"].tolist() == [2, 0, 2]


def test_labels_are_not_used_by_default(learn, tmp_path, paint):
    """The model is unconditional unless ``data.labels`` is true."""
    paint(tmp_path / "some", [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(4)])
    learn("some")
    assert checkpoint.load_model(tmp_path / "run").model.dataset_info.class_names is None


def test_path_with_special_characters(learn, tmp_path, paint):
    """Spaces, quotes, colons and letters beyond ASCII."""
    paint(tmp_path / "Bilder: größe 'x'.d", [f"{i}.png" for i in range(3)])
    images, _ = learn("Bilder: größe 'x'.d")
    assert images.shape == (2, 3, 8, 8)


def test_resuming_with_changed_data(learn, tmp_path, paint):
    """The run continues, and the log says that the data have changed."""
    paint(tmp_path / "some", [f"{i}.png" for i in range(4)])
    learn("some")
    paint(tmp_path / "some", [f"{i}.png" for i in range(9)])
    (tmp_path / "x.npz").unlink()
    _, said = learn("some", "--steps", 3)
    assert "the data have changed" in said
