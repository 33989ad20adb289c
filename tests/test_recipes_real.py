"""Every recipe trains and samples for a few steps on its data; that it learns is tested elsewhere."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from fromnoise.checkpoint import load_model
from fromnoise.cli import main

SMALL = {
    "train.batch": 2,
    "train.steps": 2,
    "train.held_out": 1,
    "train.evaluations": 1,
    "train.previews": 0,
    "train.report_every": 1,
    "train.threads": 1,
    "sample.count": 1,
    "sample.steps": 2,
}
SHAPES = {
    "digits": (1, 8, 8),
    "fast": (1, 28, 28),
    "pulfer": (1, 28, 28),
    "pulfer-fashion": (1, 28, 28),
    "fashion-labels": (1, 28, 28),
    "mixture": (1, 28, 28),
    "simple": (1, 28, 28),
    "unet": (3, 128, 128),
    "flowers": (3, 64, 64),
    "ho2020": (3, 32, 32),
    "images": (3, 64, 64),
}
PARAMETERS = {
    "pulfer": 506_852,
    "pulfer-fashion": 506_852,
    "simple": 858_753,
    "ho2020": 35_746_307,
    "unet": 35_711_491,
    "flowers": 63_200_387,
}
LARGE = ("unet", "flowers")  # half a minute each, so not in CI
DATA = {"images": "emoji_64.zip", "flowers": "flowers102_64.zip"}  # the official split of flowers is not available


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LARGE else pytest.mark.slow) for name in SHAPES]
)
def test_recipe_trains_and_samples(name, tmp_path, real_data, monkeypatch, capsys):
    """Train for two steps on real data, sample, and open every image that was written."""
    monkeypatch.setenv("FROMNOISE_DATA", str(real_data))
    out = tmp_path / "run"
    arguments = [w for key, value in SMALL.items() for w in (f"--{key}", str(value))]
    if name == "fast":
        arguments += ["--data.pseudo_labels", "32"]  # most of the time is that of k-means
    if name in DATA:
        arguments += ["--data", str(real_data / DATA[name])]
    assert main(["train", name, "--out", str(out), "--device", "cpu", *arguments]) == 0, capsys.readouterr().err
    reports = [json.loads(line) for line in (out / "reports.jsonl").read_text().splitlines()]
    assert [r["step"] for r in reports] == [1, 2] and all(0 < r["loss"] < 1e4 for r in reports)
    model = load_model(out).model
    assert model.dataset_info.shape == SHAPES[name]
    if name in PARAMETERS:
        assert model.parameters == PARAMETERS[name]
    if not model.recipe.train.autosize:
        assert main(["recipes", "--json", str(tmp_path / "recipes.json")]) == 0
        rows = json.loads((tmp_path / "recipes.json").read_text())
        assert model.parameters == next(row["parameters"] for row in rows if row["name"] == name)
    assert all(bool(torch.isfinite(p).all()) for p in model.denoiser.parameters())
    samples = tmp_path / "samples.png"
    assert main(["sample", str(out), "-n", "1", "--steps", "2", "--out", str(samples), "--device", "cpu"]) == 0
    for path in (samples, out / "samples.png", out / "reverse.gif", out / "forward.png", out / "loss.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) >= 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "channels"),
    [
        (["--data", "DATA/cifar10", "--data.size", "33"], 3),
        (["--data", "DATA/mnist", "--data.size", "[31, 40]", "--data.labels", "true"], 1),
        (["--data", "DATA/flowers102_64.zip", "--data.size", "100", "--data.channels", "1"], 1),
    ],
)
def test_other_sizes_of_real_data(words, channels, tmp_path, real_data, capsys):
    """Odd and non-square sizes, colour images as grey, and labels."""
    small = [w for key, value in SMALL.items() for w in (f"--{key}", str(value))]
    net = "--network.width 8 --network.groups 4 --network.multipliers [1,2] --network.attention_resolutions []".split()
    words = [w.replace("DATA", str(real_data)) for w in words]
    assert main(["train", "images", "--out", str(tmp_path), *small, *net, *words]) == 0, capsys.readouterr().err
    assert load_model(tmp_path).model.dataset_info.shape[0] == channels


@pytest.mark.slow
def test_ho2020_at_256_pixels():
    """LSUN and CelebA-HQ: six levels, 114 million parameters (Ho et al. 2020, app. B); nothing else is tested."""
    from fromnoise import config as recipes
    from fromnoise.data.dataset_info import DatasetInfo
    from fromnoise.model import build

    recipe = recipes.load(
        "ho2020", {"data.size": 256, "network.multipliers": [1, 1, 2, 2, 4, 4], "network.dropout": 0.0}
    )
    count = build(recipe, DatasetInfo((3, 256, 256)), device="meta").parameters
    assert count == pytest.approx(114e6, rel=0.01)
