"""``fromnoise ema``: averages of other widths as models, the sweep, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from calling import SMALL, call

from fromnoise import checkpoint
from fromnoise.training.ema_snapshots import Snapshots


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with four snapshots."""
    out = tmp_path_factory.mktemp("ema") / "run"
    words = ("--steps", "12", "--ema.decays", "[]", "--ema.widths", "[0.1]", "--ema.snapshots", "4")
    said = call("train", "digits", "--out", out, *SMALL, *words, "--ema.snapshot_every", "1", "--precision", "fp32")
    assert said.code == 0, said.err
    return out


@pytest.fixture
def own(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


def test_width_that_is_kept_is_reconstructed(own, right):
    """To float16; the new file is a model that samples, and model.safetensors is as before."""
    before = (own / "model.safetensors").read_bytes()
    out = right("ema", own, "--width", "0.1").out
    assert "average of width 0.1 at step 12" in out and "ema-0.1.safetensors" in out
    kept, found = checkpoint.load_model(own), checkpoint.load_model(own / "ema-0.1.safetensors")
    assert found.progress == {"step": 12, "ema_width": 0.1} and found.model.recipe == kept.model.recipe
    for name, t in kept.model.module.state_dict().items():
        other = found.model.module.state_dict()[name]
        assert float((t.double() - other.double()).norm()) <= 1e-3 * max(1e-6, float(t.double().norm())), name
    assert (own / "model.safetensors").read_bytes() == before and not (own / ".lock").exists()
    right("sample", own / "ema-0.1.safetensors", "-n", 2, "--steps", 2, "--out", "x.png")
    right("ema", own, "--width", "0.2", "--replace")
    assert checkpoint.load_model(own).progress["ema_width"] == 0.2
    assert not torch.equal(*(next(iter(m.model.module.parameters())) for m in (kept, checkpoint.load_model(own))))


def test_sweep_writes_the_nearest(own, right):
    """A table, a curve, numbers, and the model of the least distance."""
    said = right("ema", own, "--sweep", "--widths", "0.05,0.1,0.2", "-n", 20, "--features", "pixels")
    rows = json.loads((own / "ema.json").read_text())["rows"]
    assert [row["width"] for row in rows] == [None, 0.05, 0.1, 0.2]
    best = min(rows[1:], key=lambda row: row["kernel"]["value"])["width"]
    assert (own / f"ema-{best:g}.safetensors").exists() and (own / "ema.png").stat().st_size > 1000
    assert f"average of width {best:g}" in said.out and said.out.count("+-") == 4
    assert abs(rows[2]["kernel"]["value"] - rows[0]["kernel"]["value"]) < rows[0]["kernel"]["error"]


def test_what_is_refused(own, run, wrong):
    """One line each; nothing is written."""
    wrong("ema", own, message="give --width W")
    wrong("ema", own, "--width", "0.1", "--sweep", message="or --sweep")
    wrong("ema", own, "--width", "0.5", message="between 0 and 0.28")
    wrong("ema", own, "--sweep", "--widths", "0.1,x", message="between 0 and 0.28")
    wrong("ema", own, "--width", "0.1", "--replace", "--out", "a.safetensors", message="not both")
    wrong("ema", run, "--width", "0.1", message=("has no snapshots of averages", "--ema.snapshots 8"))
    wrong("ema", "nowhere", "--width", "0.1", message="nowhere")
    path = next(iter(Snapshots(own)._files.values()))
    checkpoint.write(path, {"0.other": torch.zeros(2)}, {"kind": "snapshot", "step": int(path.stem), "widths": [0.1]})
    wrong("ema", own, "--width", "0.1", message="are not of its network")
