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
    classes some."""
    out = tmp_path / "digits"
    assert main(["train", "digits", "--out", str(out), "--device", "cpu"]) == 0
    for name in ("samples.png", "reverse.gif", "reverse.png", "forward.png", "loss.png", "model.safetensors"):
        assert (out / name).stat().st_size > 500
    samples = tmp_path / "samples.npz"
    assert main(["sample", str(out), "-n", "500", "--out", str(samples), "--device", "cpu"]) == 0
    verdict = judge(np.load(samples)["images"])[0]
    assert verdict.accuracy >= 0.98
    assert verdict.sure >= 0.75, verdict
    assert min(verdict.classes) > 0, verdict


def test_the_judge_is_not_fooled_by_noise():
    """Of random pixels it is rarely sure."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 1, 8, 8), dtype=np.uint8)
    assert all(v.sure < 0.5 for v in judge(noise)), judge(noise)
