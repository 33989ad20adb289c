"""``fromnoise doctor`` on data and on a run."""

from __future__ import annotations

import json

import numpy as np


def test_doctor_on_data(right, wrong, tmp_path):
    """Findings with remedies, also as JSON; none for healthy data; one line for an invalid option."""
    assert "No problems found" in right("doctor", "digits").out
    np.savez(tmp_path / "dark.npz", images=np.random.default_rng(0).integers(0, 9, (600, 1, 8, 8), dtype=np.uint8))
    output = right("doctor", "dark.npz", "--json", "x.json")
    (finding,) = json.loads((tmp_path / "x.json").read_text())["findings"]
    assert finding["key"] == "range" and finding["problem"] in output.out and finding["remedy"] in output.out
    wrong("doctor", "nowhere", message="nowhere")
    wrong("doctor", "digits", "-n", "-1", message="-n -1 is too small")


def test_doctor_on_a_run(right, run, tmp_path):
    """After three training steps the colours of the samples are wrong."""
    output = right("doctor", run, "-n", "60", "--json", "x.json", "--device", "cpu")
    found = {f["key"] for f in json.loads((tmp_path / "x.json").read_text())["findings"]}
    assert "colour" in found and "sampling 60 images" in output.err
