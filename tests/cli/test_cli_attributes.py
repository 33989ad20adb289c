"""A model conditioned on attributes, from the table beside the images to samples of given values."""

from __future__ import annotations

import numpy as np
import pytest
from calling import SMALL
from PIL import Image

WORDS = ["--data.attributes", "true", "--data.size", "8", "--data.channels", "1", *SMALL]


@pytest.fixture
def shades(tmp_path):
    """Constant grey images, with a table of their brightness in per cent."""
    (tmp_path / "set").mkdir()
    rows = ["file,light,noise"]
    for i in range(32):
        Image.fromarray(np.full((8, 8), i * 8, np.uint8)).save(tmp_path / "set" / f"{i}.png")
        rows.append(f"{i}.png,{100 * i / 31},{i % 3}")
    (tmp_path / "set" / "labels.csv").write_text("\n".join(rows))
    return "set"


def mean(path):
    """Mean pixel of the samples in a file."""
    with np.load(path, allow_pickle=False) as file:
        return file["images"].mean()


def test_attributes_on_the_command_line(right, wrong, shades):
    """A short run stores the attributes in its file; unknown ones give one line."""
    right("train", "images", "--data", shades, "--steps", 2, "--out", "run", *WORDS, "--sample.sampler", "ddim")
    words = ["sample", "run", "-n", 2, "--steps", 2]
    right(*words, "--out", "x.npz", "--label", "light=20")
    right(*words, "--out", "y.npz", "--label", "light = 20, noise=1", "--guidance", 2)
    right(*words, "--out", "z.npz")
    right(*words, "--out", "folder", "--label", "light=20")
    wrong(*words, "--out", "x.png", "--label", "size=3", message=("'size=3'", "light=", "noise"))
    wrong(*words, "--out", "x.png", "--label", "light=dark", message="light=dark")
    wrong(
        "train", "images", "--data", shades, "--data.labels", "true", *WORDS, message=("labels", "attributes", "one of")
    )


@pytest.mark.slow
def test_samples_have_the_requested_attribute(right, shades):
    """Light and dark samples after a short training."""
    words = ["--diffusion.target", "v", "--network.width", 16, "--train.lr", 0.003, "--ema.decays", "[]"]
    right("train", "images", "--data", shades, "--steps", 250, "--batch", 32, "--out", "run", *WORDS[:-2], *words)
    got = []
    for light in (20, 80):
        right(
            "sample", "run", "-n", 16, "--steps", 25, "--sampler", "ddim", "--out", "x.npz", "--label", f"light={light}"
        )
        got.append(100 * mean("x.npz") / 248)
    assert abs(got[0] - 20) < 12 and abs(got[1] - 80) < 12
