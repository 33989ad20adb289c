"""Wrong inputs: exit code 2, one line that names the mistake and the mend, nothing made or overwritten."""

from __future__ import annotations

import shutil

import numpy as np
import pytest


def test_a_batch_that_cannot_be_shared_makes_no_folder(wrong, small):
    """Which the mended command would find in its way; a dry run says so too."""
    words = ["train", "digits", *small, "--train.batch", "10", "--train.accumulate", "4"]
    wrong(*words, message=("10", "not divisible"))
    wrong(*words, "--dry-run", message=("10", "not divisible"))


# ---- data


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).normal(50, 1000, (10, 8, 8)),
        np.full((10, 8, 8), np.nan),
        np.zeros((10, 8), np.uint8),
        np.zeros((2, 2, 2, 8, 8), np.uint8),
        np.zeros((0, 8, 8), np.uint8),
        np.array(5, np.uint8),
        np.array(["a", "b"]),
    ],
    ids=["floats", "nan", "rank 2", "rank 5", "none", "rank 0", "strings"],
)
def test_an_array_that_is_no_images(wrong, tmp_path, array):
    """Numbers of no usual range, or the wrong rank."""
    np.savez(tmp_path / "x.npz", images=array)
    wrong("train", "images", "--data", "x.npz", message="x.npz")


# ---- places


@pytest.mark.parametrize("out", ["file", "file/run", "file/deep/run"])
def test_a_run_folder_below_a_file(wrong, tmp_path, small, out):
    """The file stays."""
    (tmp_path / "file").write_text("mine")
    wrong("train", "digits", "--steps", "1", "--out", out, *small, message="file", notes=True)


def test_a_folder_of_a_different_recipe(wrong, tmp_path, run, small):
    """The message names the difference, and the run is unchanged."""
    shutil.copytree(run, tmp_path / "run")
    words = ["train", "digits", "--steps", "9", "--out", "run", *small]
    wrong(*words, "--train.lr", "0.5", message=("train.lr", "0.5", "0.004", "--out"), notes=True)
    wrong(*words, "--network.width", "16", message=("network.width", "--out"), notes=True)
    wrong(*words, "--seed", "1", "--train.lr", "0.5", message=("and 1 more", "--out"), notes=True)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe\x00"], ids=["no TOML", "no text"])
def test_a_run_whose_recipe_is_broken(right, wrong, tmp_path, run, small, content):
    """It is read from the newest state (review C14); without a state the file is named."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "recipe.toml").write_bytes(content)
    words = ["train", "digits", "--steps", "3", "--out", "run", *small]
    assert "recipe.toml" in right(*words).err
    shutil.rmtree(tmp_path / "run" / "state")
    (tmp_path / "run" / "recipe.toml").write_bytes(content)
    wrong(*words, message="recipe.toml", notes=True)
