"""Export to diffusers: what was imported comes back byte for byte, and our recipes draw the same images there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline, UNet2DModel
from diffusers.pipelines.ddim import pipeline_ddim
from diffusers.pipelines.ddpm import pipeline_ddpm
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_dpmsolver_multistep
from safetensors.torch import load_file

import fromnoise as fn
from fromnoise import config, interop
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.model import Model, build

WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")


TWO_LEVELS = {"network.multipliers": [1, 2], "network.attention_resolutions": [8, 4]}
INPUT_RESIDUAL = {"network.attention_residual": "input"}
RECIPES: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "digits": ((1, 8, 8), {"network.width": 16, "network.groups": 4}),
    "images": ((3, 8, 8), {"network.width": 16, "network.head_dim": 8, **TWO_LEVELS}),
    "flowers": (
        (3, 8, 8),
        {"network.width": 8, "network.time_dim": 8, "network.attention_residual": "input", **TWO_LEVELS},
    ),
    "ho2020": ((3, 8, 12), {"network.width": 8, "network.groups": 4, **TWO_LEVELS}),
}
SAMPLING: dict[str, dict[str, Any]] = {
    "recipe": {},
    "ancestral": {"sampler": "ancestral", "steps": 25},
    "ddim": {"sampler": "ddim", "steps": 20},
    "dpmpp-2m": {"sampler": "dpmpp-2m", "steps": 12},
}


def random_model(name: str, info: DatasetInfo, values: dict[str, Any]) -> Model:
    """A model of a recipe whose weights are all random, also those that start at 0."""
    model = build(config.change(config.load(name, {"data.source": "x"}), values), info)
    torch.manual_seed(1)
    for parameter in model.denoiser.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.denoiser.eval()
    return model


def their_images(folder: Path, call: str, shape: tuple[int, int, int], monkeypatch) -> np.ndarray:
    """Two images that diffusers alone draws from the folder, with our noise: uint8 (2, H, W, C)."""
    noise, drawn = Noise(0, torch.arange(2)), iter(range(10_000))

    def ours(*args, **kwargs):
        i = next(drawn)
        stream, number = (Stream.START, 0) if i == 0 else (Stream.STEP, (i - 1) * 16)
        return noise.image(shape, stream, number, like=torch.empty(0))

    for module in (pipeline_ddpm, pipeline_ddim, scheduling_ddpm, scheduling_ddim, scheduling_dpmsolver_multistep):
        monkeypatch.setattr(module, "randn_tensor", ours)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {
        k: float(v) if "." in v else v == "True" if v.isalpha() else int(v)
        for k, v in (part.split("=") for part in call.split(", "))
    }
    return (pipeline(batch_size=2, output_type="np", **arguments).images * 255).round()


@pytest.mark.parametrize(
    ("name", "sampling"), [(name, s) for name in RECIPES for s in SAMPLING if s == "recipe" or name == "digits"]
)
def test_a_recipe_draws_the_same_images(name, sampling, tmp_path, monkeypatch):
    """Opened by diffusers alone, from the same noise: within one grey level."""
    shape, values = RECIPES[name]
    model = random_model(name, DatasetInfo(shape), values)
    options = SAMPLING[sampling]
    notes = interop.export_model(model, tmp_path / "out", "diffusers", options)
    theirs = their_images(tmp_path / "out", notes[-1].rpartition("(")[2].rstrip(")"), shape, monkeypatch)
    ours = fn.Pipeline(model, device="cpu", precision="fp32").sample(2, progress=False, **options)
    difference = np.abs(theirs - ours.permute(0, 2, 3, 1).numpy().astype(float))
    assert difference.max() <= 1 and ours.float().std() > 5
    assert load_file(tmp_path / "out" / WEIGHTS)


def test_one_class(tmp_path):
    """A class is folded into the weights; without a label the network takes class_labels, shifted by one."""
    info = DatasetInfo((1, 8, 8), ("cat", "dog"))
    model = random_model("digits", info, {"network.width": 16, "network.groups": 4, "data.labels": True})
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 300.0)
    notes = interop.export_model(model, tmp_path / "both", "diffusers")
    assert "class_labels" in notes[0]
    with torch.inference_mode():
        ours = model.denoiser.network(x, t, torch.tensor([1, -1]))
        both = UNet2DModel.from_pretrained(tmp_path / "both" / "unet")
        torch.testing.assert_close(both(x, 300, class_labels=torch.tensor([2, 0])).sample, ours, rtol=0, atol=1e-5)
        interop.export_model(model, tmp_path / "dog", "diffusers", {"label": "dog"})
        dog = UNet2DModel.from_pretrained(tmp_path / "dog" / "unet")(x, 300).sample
    torch.testing.assert_close(dog[:1], ours[:1], rtol=0, atol=1e-5)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("flowers", {}, {}, "network.attention_residual = normalized"),
    ("flowers", {"network.attention_residual": "input"}, {}, "network.time_dim = 256"),
    ("digits", {"network.patch": 2}, {}, "network.patch = 2"),
    ("digits", {"network.positions": True}, {}, "network.positions"),
    ("digits", {"network.upsampling": "shuffle"}, {}, "network.upsampling = shuffle"),
    ("images", {"network.heads": 4, "network.head_dim": None}, {}, "network.head_dim"),
    ("digits", {"network.blocks_up": 3}, {}, "network.blocks_up = 3"),
    ("digits", {"data.pseudo_labels": 4}, {}, "pseudo-labels"),
    ("digits", {"diffusion.learned_variance": True, "loss.objective": "hybrid"}, {}, "--sampler ancestral"),
    ("digits", {"loss.self_conditioning": True}, {}, "self-conditioning"),
    ("digits", {"diffusion.target": "edm"}, {}, "diffusion.target = edm"),
    ("digits", {"loss.offset_noise": 0.1}, {}, "loss.offset_noise"),
    ("digits", {"sample.sampler": "heun"}, {}, "--sampler"),
    ("digits", {"sample.grid": "karras"}, {}, "sample.grid = karras"),
    ("digits", {}, {"sampler": "ddim", "steps": 30}, "a divisor of 1000"),
    ("digits", {}, {"sampler": "nonsense"}, "no sampler"),
    ("digits", {}, {"label": "3"}, "no classes"),
    ("simple", {}, {}, "network simple has no counterpart"),
]


@pytest.mark.parametrize(("name", "values", "options", "named"), REFUSED, ids=lambda v: str(v)[:30])
def test_what_cannot_be_exported_is_refused(name, values, options, named, tmp_path):
    """With the reason, and without writing anything."""
    shape = (1, 8, 8) if name == "digits" else (3, 16, 16) if name != "simple" else (1, 28, 28)
    small = {} if name == "simple" else {"network.width": 16, "network.groups": 4}
    model = random_model(name, DatasetInfo(shape), small | values)
    with pytest.raises(fn.UserError, match=named) as caught:
        interop.export_model(model, tmp_path / "out", "diffusers", options)
    assert str(caught.value).isprintable() and not (tmp_path / "out").exists()


def test_a_continuous_schedule_is_a_table(tmp_path):
    """The continuous cosine has other betas than squaredcos_cap_v2: they are written as trained_betas."""
    values = {"network.width": 16, "network.groups": 4, "diffusion.schedule": "cosine-continuous"}
    model = random_model("digits", DatasetInfo((1, 8, 8)), values)
    interop.export_model(model, tmp_path / "out", "diffusers")
    scheduler = DDPMPipeline.from_pretrained(tmp_path / "out").scheduler
    levels = [model.schedule.at(k / 1000) for k in (1, 500, 1000)]
    torch.testing.assert_close(
        scheduler.alphas_cumprod[[0, 499, 999]], torch.stack([v.alpha**2 for v in levels]).float(), rtol=1e-4, atol=0
    )
