"""Classifiers of noisy images: the network, the command that trains one, and guidance by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.cli import main
from fromnoise.data import load
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.networks import NoisyClassifier
from fromnoise.training.noisy_classifier import build_classifier, train_classifier
from fromnoise.utils.device import select_device

TINY = {"network.width": 8, "network.multipliers": [1], "network.groups": 4, "network.attention_resolutions": []}


@pytest.fixture(scope="module")
def model():
    """An untrained unconditional model of the digits."""
    return build(recipes.load("digits", TINY), DatasetInfo((1, 8, 8)))


def run_command(capsys, *words):
    """Exit code, and the last line of stderr in a list."""
    code = main([str(w) for w in words])
    return code, capsys.readouterr().err.strip().splitlines()[-1:]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 13), (1, 1, 1)])
def test_any_image_size(shape):
    """The logits of an image do not depend on the batch."""
    net = NoisyClassifier(shape[0], 7).eval()
    x, t = torch.randn(4, *shape), torch.tensor([0.0, 10.0, 500.0, 999.0])
    out = net(x, t)
    assert out.shape == (4, 7)
    assert torch.allclose(out[2:3], net(x[2:3], t[2:3]), atol=1e-5)


def test_guide_command(model, tmp_path, capsys):
    """Two runs write the same weights; the classifier changes the samples; what does not fit gets a message."""
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, model, model.denoiser.state_dict(), {"step": 0})
    options = ["--steps", 3, "--batch", 16, "--device", "cpu"]
    for name in ("a", "b"):
        assert run_command(capsys, "guide", path, "--out", tmp_path / f"{name}.safetensors", *options)[0] == 0
    a, b = (checkpoint.read(tmp_path / f"{name}.safetensors")[0] for name in ("a", "b"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    guided = ["sample", path, "-n", 4, "--steps", 4, "--precision", "fp32", "--classifier", tmp_path / "a.safetensors"]
    for scale, out in ((0, "x.npz"), (50, "y.npz")):
        words = [*guided, "--label", "3", "--classifier-scale", scale, "--interval", "0,0.9", "--out", tmp_path / out]
        assert run_command(capsys, *words)[0] == 0
    x, y = (np.load(tmp_path / f)["images"] for f in ("x.npz", "y.npz"))
    assert (x != y).any()
    assert "--label" in run_command(capsys, *guided, "--out", tmp_path / "z.png")[1][0]
    assert "no label 'x'" in run_command(capsys, *guided, "--out", tmp_path / "z.png", "--label", "x")[1][0]
    wrong = ["sample", path, "--out", tmp_path / "z.png", "--label", "3", "--classifier"]
    assert "fromnoise guide" in run_command(capsys, *wrong, path)[1][0]
    assert "fromnoise guide" in run_command(capsys, *wrong, "nowhere")[1][0]
    other = build(recipes.load("digits", TINY | {"diffusion.schedule": "linear"}), DatasetInfo((1, 8, 8)))
    checkpoint.save_model(tmp_path / "o.safetensors", other, other.denoiser.state_dict(), {"step": 0})
    wrong[1] = tmp_path / "o.safetensors"
    assert "another image shape or noise schedule" in run_command(capsys, *wrong, tmp_path / "a.safetensors")[1][0]


@pytest.mark.long
def test_training(model):
    """Clean digits are classified, and the classifier is unsure of pure noise."""
    data = load("digits")
    classifier = build_classifier(model, data)
    for _ in train_classifier(classifier, model, data, select_device("cpu", "fp32"), steps=200, batch=64):
        pass
    x0 = data.held_out.get(torch.arange(len(data.held_out))).float() / 127.5 - 1
    with torch.no_grad():
        right = classifier(x0, model.schedule.at(0.01)).argmax(1) == data.held_out.labels
        noise = torch.softmax(classifier(torch.randn(200, 1, 8, 8), model.schedule.at(1.0)), 1)
    assert float(right.double().mean()) > 0.85
    assert float(noise.max(1).values.mean()) < 0.4
