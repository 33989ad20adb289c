"""Export to diffusers: what was imported comes back byte for byte, and our recipes draw the same images there."""

from __future__ import annotations

import os
import subprocess
import sys
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
from fromnoise.checkpoint import load_model
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.model import Model, build

WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")


TWO_LEVELS = {"network.multipliers": [1, 2], "network.attention_resolutions": [8, 4]}
RECIPES: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "digits": ((1, 8, 8), {"network.width": 16, "network.groups": 4}),
    "images": ((3, 8, 8), {"network.width": 16, "network.head_dim": 8, **TWO_LEVELS}),
    "flowers": ((3, 8, 8), {"network.width": 8, "network.time_dim": 16, **TWO_LEVELS}),
    "ho2020": ((3, 8, 12), {"network.width": 8, "network.groups": 4, **TWO_LEVELS}),
    "fashion-labels": ((1, 10, 6), {"network.width": 16, "network.groups": 4, "network.heads": 2}),
    "mixture": ((1, 9, 9), {"network.width": 8}),
}
OWN = ("flowers", "fashion-labels", "mixture")
"""Recipes whose folder carries a pipeline."""
SAMPLING: dict[str, dict[str, Any]] = {
    "recipe": {},
    "ancestral": {"sampler": "ancestral", "steps": 25},
    "ddim": {"sampler": "ddim", "steps": 20},
    "dpmpp-2m": {"sampler": "dpmpp-2m", "steps": 12},
    "unipc": {"sampler": "unipc", "steps": 6},
}


@pytest.fixture(autouse=True)
def _modules(tmp_path, monkeypatch):
    """Where diffusers copies the files of Python that a folder carries."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def random_model(name: str, info: DatasetInfo, values: dict[str, Any]) -> Model:
    """A model of a recipe whose weights are all random, also those that start at 0."""
    model = build(config.change(config.load(name, {"data.source": "x"}), values), info)
    torch.manual_seed(1)
    for parameter in model.denoiser.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.denoiser.eval()
    return model


def info_of(name: str) -> DatasetInfo:
    """Shape and classes of the small models."""
    labels = config.load(name, {"data.source": "x"}).data.labels
    return DatasetInfo(RECIPES[name][0], ("cat", "dog", "emu") if labels else None)


def their_images(folder: Path, call: str, shape: tuple[int, int, int], monkeypatch, **more: Any) -> np.ndarray:
    """Three images that diffusers alone draws from the folder, with our noise: uint8 (3, H, W, C)."""
    noise, drawn = Noise(0, torch.arange(3)), iter(range(10_000))

    def ours(*args, **kwargs):
        i = next(drawn)
        stream, number = (Stream.START, 0) if i == 0 else (Stream.STEP, (i - 1) * 16)
        return noise.image(shape, stream, number, like=torch.empty(0))

    for module in (pipeline_ddpm, pipeline_ddim, scheduling_ddpm, scheduling_ddim, scheduling_dpmsolver_multistep):
        monkeypatch.setattr(module, "randn_tensor", ours)
    monkeypatch.setattr("diffusers.utils.torch_utils.randn_tensor", ours)
    own = (folder / "pipeline.py").exists()
    pipeline = DiffusionPipeline.from_pretrained(folder, **({"trust_remote_code": True} if own else {}))
    pipeline.set_progress_bar_config(disable=True)
    arguments = {} if own else arguments_of(call)
    return (pipeline(**(arguments | {"batch_size": 3, "output_type": "np"} | more)).images * 255).round()


def arguments_of(call: str) -> dict[str, Any]:
    """The arguments of the call that an export prints."""
    parts = (part.split("=") for part in call.rpartition("(")[2].rstrip(")").split(", "))
    return {k: float(v) if "." in v else v == "True" if v.isalpha() else int(v) for k, v in parts}


def compare(model: Model, folder: Path, options: dict[str, Any], monkeypatch, **more: Any) -> None:
    """Export, and compare the images with ours."""
    notes = interop.export_model(model, folder, "diffusers", options)
    theirs = their_images(folder, notes[-1], model.dataset_info.shape, monkeypatch, **more)
    label = {"label": more["class_labels"]} if "class_labels" in more else {}
    ours = fn.Pipeline(model, device="cpu", precision="fp32").sample(3, progress=False, **options, **label)
    difference = np.abs(theirs - ours.permute(0, 2, 3, 1).numpy().astype(float))
    assert difference.max() <= 1 and ours.float().std() > 5
    assert load_file(folder / WEIGHTS)


@pytest.mark.parametrize(
    ("name", "sampling"), [(name, s) for name in RECIPES for s in SAMPLING if s == "recipe" or name == "digits"]
)
def test_a_recipe_draws_the_same_images(name, sampling, tmp_path, monkeypatch):
    """Opened by diffusers alone, from the same noise: within one grey level."""
    model = random_model(name, info_of(name), RECIPES[name][1])
    compare(model, tmp_path / "out", SAMPLING[sampling], monkeypatch)
    assert (tmp_path / "out" / "pipeline.py").exists() == (name in OWN or sampling == "unipc")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("images", "ho2020")]


@pytest.mark.parametrize("name", ["digits", "flowers", *SLOW])
def test_a_trained_run_draws_the_same_images(name, tmp_path, monkeypatch):
    """A run of a few steps, from its file."""
    shape, values = RECIPES[name]
    images = torch.randint(0, 256, (64, *shape), dtype=torch.uint8)
    small = {key.replace(".", "__"): value for key, value in values.items()}
    small |= {"train__warmup": 0, "ema__decays": [0.5], "data__size": shape[1:]}
    trainer = fn.Trainer(name, images, steps=4, batch=4, lr=2e-3, device="cpu", progress=False, **small)
    fn.save(trainer.run(), tmp_path / "model.safetensors")
    compare(load_model(tmp_path / "model.safetensors").model, tmp_path / "out", {}, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("name", RECIPES)
def test_a_network_in_full_size(name, tmp_path):
    """The network as the recipe has it, for its own images: outputs within 1e-4."""
    recipe = config.load(name, {"data.source": "x", "train.autosize": []})
    shape = (recipe.data.channels or (1 if name in ("digits", "mixture", "fashion-labels") else 3),)
    shape += recipe.data.size or ((8, 8) if name == "digits" else (28, 28) if shape == (1,) else (64, 64))
    classes = tuple("abc") if recipe.data.labels else None
    model = random_model(name, DatasetInfo(shape, classes), {"train.autosize": []})  # pyright: ignore[reportArgumentType]
    interop.export_model(model, tmp_path / "out", "diffusers")
    options = {"trust_remote_code": True} if (tmp_path / "out" / "pipeline.py").exists() else {}
    unet = DiffusionPipeline.from_pretrained(tmp_path / "out", **options).unet
    x, cond = torch.randn(2, *shape), torch.tensor([2, -1]) if classes else None
    for t in (3, 871):
        with torch.inference_mode():
            ours = model.denoiser.network(x, torch.full((2,), float(t)), cond)
            theirs = unet(x, t, **({"class_labels": cond + 1} if cond is not None else {})).sample
        error = float((ours - theirs).abs().max() / ours.abs().max())
        print(f"{name}: {model.parameters:,} parameters, {'x'.join(map(str, shape))}, largest difference {error:.1e}")
        assert error < 1e-4


@pytest.mark.parametrize("options", [{}, {"guidance": 1.0}, {"sampler": "ddim", "steps": 10, "guidance": 2.5}])
def test_classes_and_guidance(options, tmp_path, monkeypatch):
    """By names, numbers or none; with the scale of the recipe and another one."""
    model = random_model("fashion-labels", info_of("fashion-labels"), RECIPES["fashion-labels"][1])
    compare(model, tmp_path / "out", options, monkeypatch, class_labels=["emu", "cat"])


def test_a_pipeline_with_classes_refuses_others(tmp_path):
    """Unknown classes, and guidance of networks that have none."""
    model = random_model("fashion-labels", info_of("fashion-labels"), RECIPES["fashion-labels"][1])
    interop.export_model(model, tmp_path / "out", "diffusers", {"steps": 2, "guidance": 1.0})
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path / "out")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.class_rows(None, 2).tolist() == [0, 0] and pipeline.class_rows(["dog", 0], 3).tolist() == [2, 1, 2]
    for labels in ("fox", 3, []):
        with pytest.raises(ValueError):
            pipeline(class_labels=labels)
    assert pipeline(class_labels="dog", guidance_scale=2).images[0].size == (6, 10)
    own = DiffusionPipeline.from_pretrained(
        tmp_path / "out", custom_pipeline=str(tmp_path / "out"), trust_remote_code=True
    )
    assert type(own).__name__ == "FromnoisePipeline"


def test_classes_come_back(tmp_path):
    """An import of a folder with classes has their names and the row of no class."""
    info = DatasetInfo((1, 8, 8), ("cat", "dog"))
    model = random_model("digits", info, {"network.width": 16, "network.groups": 4, "data.labels": True})
    interop.export_model(model, tmp_path / "out", "diffusers")
    again = fn.load(tmp_path / "out").model
    assert again.dataset_info.class_names == ("cat", "dog")
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 300.0)
    for cond in (torch.tensor([1, -1]), None):
        with torch.inference_mode():
            theirs, ours = (m.denoiser.network(x, t, cond) for m in (again, model))
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_diffusers_alone_opens_a_folder(tmp_path):
    """In a process where fromnoise cannot be imported."""
    model = random_model("fashion-labels", info_of("fashion-labels"), RECIPES["fashion-labels"][1])
    interop.export_model(model, tmp_path / "out", "diffusers")
    latents = Noise(0, torch.arange(2)).image((1, 10, 6), Stream.START, 0, like=torch.empty(0))
    torch.save(latents, tmp_path / "latents.pt")
    program = (
        "import sys; sys.modules['fromnoise'] = None\n"
        "import numpy, torch; from diffusers import DiffusionPipeline\n"
        "p = DiffusionPipeline.from_pretrained('out', trust_remote_code=True)\n"
        "x = torch.load('latents.pt', weights_only=True)\n"
        "images = p(batch_size=2, class_labels=['cat'], latents=x, output_type='np').images\n"
        "numpy.save('theirs.npy', images)"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, env=environment)
    ours = fn.Pipeline(model, device="cpu", precision="fp32").sample(2, progress=False, label="cat")
    theirs = np.load(tmp_path / "theirs.npy") * 255
    assert np.abs(theirs.round() - ours.permute(0, 2, 3, 1).numpy().astype(float)).max() <= 1


def test_one_class(tmp_path):
    """A class is folded into the weights; without a label the network takes class_labels, shifted by one."""
    info = DatasetInfo((1, 8, 8), ("cat", "dog"))
    model = random_model("digits", info, {"network.width": 16, "network.groups": 4, "data.labels": True})
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 300.0)
    notes = interop.export_model(model, tmp_path / "both", "diffusers")
    assert "class_labels=['cat']" in notes[-1] and "trust_remote_code runs pipeline.py" in notes[0]
    with torch.inference_mode():
        ours = model.denoiser.network(x, t, torch.tensor([1, -1]))
        both = UNet2DModel.from_pretrained(tmp_path / "both" / "unet")
        torch.testing.assert_close(both(x, 300, class_labels=torch.tensor([2, 0])).sample, ours, rtol=0, atol=1e-5)
        interop.export_model(model, tmp_path / "dog", "diffusers", {"label": "dog"})
        dog = UNet2DModel.from_pretrained(tmp_path / "dog" / "unet")(x, 300).sample
    torch.testing.assert_close(dog[:1], ours[:1], rtol=0, atol=1e-5)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("digits", {"network.multipliers": [2, 2]}, {}, "network.multipliers = "),
    ("digits", {"network.positions": True}, {}, "network.positions"),
    ("digits", {"network.upsampling": "shuffle"}, {}, "network.upsampling = shuffle"),
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
    ("digits", {}, {"guidance": 2.0}, "a model without classes"),
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
