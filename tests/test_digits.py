"""The first run of a new user: the digits are readable."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fromnoise.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from digit_confidence import confidence  # noqa: E402


@pytest.mark.long
def test_digits_are_readable(tmp_path, capsys):
    """A classifier of 98 % accuracy is confident for three quarters of 500 samples, with every class among them.

    The recipe's budget is in steps, so that the result does not depend on the load of the machine.
    """
    out = tmp_path / "digits"
    assert main(["train", "digits", "--out", str(out), "--device", "cpu"]) == 0
    for name in ("samples.png", "reverse.gif", "reverse.png", "forward.png", "loss.png", "model.safetensors"):
        assert (out / name).stat().st_size > 500
    samples = tmp_path / "samples.npz"
    assert main(["sample", str(out), "-n", "500", "--out", str(samples), "--device", "cpu"]) == 0
    neighbours, trees = confidence(np.load(samples)["images"])
    assert neighbours.accuracy >= 0.98
    assert neighbours.samples >= 0.75, neighbours
    assert min(neighbours.classes) > 0, neighbours
    # the trees are rarely so confident, also for real digits, but never for noise
    assert trees.accuracy >= 0.975 and trees.samples >= 0.3 * trees.real, trees


def test_confidence_in_noise_is_low():
    """Random pixels are classified with confidence far less often than digits."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 1, 8, 8), dtype=np.uint8)
    neighbours, trees = confidence(noise)
    assert neighbours.samples < 0.5 and neighbours.shuffled < 0.5
    assert trees.samples < 0.02 and trees.shuffled < 0.02
