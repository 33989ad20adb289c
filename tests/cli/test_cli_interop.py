"""``fromnoise import`` and ``export``."""

from __future__ import annotations

from diffusers import DDIMPipeline
from safetensors.torch import load_file

import fromnoise as fn


def test_a_model_there_and_back(run, right, wrong):
    """Export, import what was exported, sample; nothing is overwritten."""
    said = right("export", run, "--to", "diffusers", "--out", "folder", "--sampler", "ddim")
    assert "DDIMPipeline.from_pretrained" in said.out and DDIMPipeline.from_pretrained("folder")
    assert "network diffusers" in right("import", "folder", "--out", "again").out
    right("sample", "again", "-n", 2, "--steps", 2, "--out", "x.npz")
    wrong("export", run, "--to", "diffusers", "--out", "folder", message="not empty")
    wrong("import", "folder", "--out", "again", message="not empty")
    right("import", "folder", "--value-range=-0.5,0.5", "--out", "half")
    assert fn.load("half").recipe.diffusion.target.kind == "value-range"
    wrong("import", "folder", "--value-range", "1,0", "--out", "other", message="--value-range 1,0")
    right("export", run, "--to", "safetensors", "--out", "w.safetensors")
    state = fn.load(run).denoiser.network.state_dict()
    assert {k: v.shape for k, v in load_file("w.safetensors").items()} == {k: v.shape for k, v in state.items()}
    wrong("export", run, "--out", "y", message="--to")
