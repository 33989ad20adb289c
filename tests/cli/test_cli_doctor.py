"""``fromnoise doctor`` on data and on a run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from fromnoise.checkpoint import load_model, save_model
from fromnoise.config import DataConfig


def test_doctor_on_data(right, wrong, tmp_path):
    """Findings with remedies, also as JSON; none for healthy data; one line for an invalid option."""
    assert "No problems found" in right("doctor", "digits").out
    np.savez(tmp_path / "dark.npz", images=np.random.default_rng(0).integers(0, 9, (600, 1, 8, 8), dtype=np.uint8))
    output = right("doctor", "dark.npz", "--json", "x.json")
    (finding,) = json.loads((tmp_path / "x.json").read_text())["findings"]
    assert finding["key"] == "range" and finding["problem"] in output.out and finding["remedy"] in output.out
    wrong("doctor", "nowhere", message="nowhere")
    wrong("doctor", "digits", "-n", "-1", message="-n -1 is too small")


def test_models_of_unknown_data(right, wrong, run, tmp_path):
    """Review D6: the reports are checked; other commands name the flag for the data that they have."""
    loaded = load_model(run)
    recipe = loaded.model.recipe.model_copy(update={"data": DataConfig(source="")})
    info = replace(loaded.model.dataset_info, fingerprint="")
    model = replace(loaded.model, recipe=recipe, dataset_info=info)
    save_model(tmp_path / "model.safetensors", model, model.denoiser.state_dict(), {})
    output = right("doctor", "model.safetensors")
    assert "does not record its training data" in output.err and "duplicates" not in output.out
    wrong("evaluate", "model.safetensors", message=("does not record its training data", "--against SPEC"))
    wrong("bits", "model.safetensors", message="--data")
    output = right("bits", "model.safetensors", "--data", "digits", "-n", "4", "--flow", "0", "--bound-steps", "2")
    assert "the model does not record its training data" in output.out and "training  bound" not in output.out


def test_doctor_on_a_run(right, run, tmp_path):
    """After three training steps the colours of the samples are wrong."""
    output = right("doctor", run, "-n", "60", "--json", "x.json", "--device", "cpu")
    found = {f["key"] for f in json.loads((tmp_path / "x.json").read_text())["findings"]}
    assert "colour" in found and "sampling 60 images" in output.err
