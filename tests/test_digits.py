"""The first run, as a newcomer makes it: the digits can be read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fromnoise.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from digits import judge  # noqa: E402


@pytest.mark.slow
def test_digits_can_be_read(tmp_path, capsys):
    """`fromnoise train digits`: a classifier of 98 % accuracy is sure of three quarters of 500 samples, and of all
    classes some. In steps, fewer than its budget of 90 s allows, that a busy machine may judge alike."""
    out = tmp_path / "digits"
    assert main(["train", "digits", "--steps", "450", "--out", str(out), "--device", "cpu"]) == 0
    for name in ("samples.png", "reverse.gif", "reverse.png", "forward.png", "loss.png", "model.safetensors"):
        assert (out / name).stat().st_size > 500
    samples = tmp_path / "samples.npz"
    assert main(["sample", str(out), "-n", "500", "--out", str(samples), "--device", "cpu"]) == 0
    neighbours, trees = judge(np.load(samples)["images"])
    assert neighbours.accuracy >= 0.98
    assert neighbours.sure >= 0.75, neighbours
    assert min(neighbours.classes) > 0, neighbours
    # trees are rarely so sure, of real digits too, but never of what is none
    assert trees.accuracy >= 0.975 and trees.sure >= 0.3 * trees.sure_of_real, trees


def test_the_judge_is_not_fooled_by_noise():
    """Of random pixels it is sure far less often."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 1, 8, 8), dtype=np.uint8)
    neighbours, trees = judge(noise)
    assert neighbours.sure < 0.5 and neighbours.floor < 0.5
    assert trees.sure < 0.02 and trees.floor < 0.02
