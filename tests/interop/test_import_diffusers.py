"""Import of diffusers folders, against diffusers: the same outputs, the same trajectories, refusals in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_ddpm, scheduling_dpmsolver_multistep
from safetensors.torch import load_file, save_file
from tiny_diffusers import random_unet, save_folder

import fromnoise as fn
from fromnoise import interop
from fromnoise.diffusion.rng import Noise, Stream

WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")
ONE_LEVEL = {"block_out_channels": (8,), "down_block_types": ("AttnDownBlock2D",), "up_block_types": ("UpBlock2D",)}
TIMES = (0, 1, 50, 111, 250, 500, 731, 900, 998, 999)


def read_config(component: Any) -> dict[str, Any]:
    """The options of a component of diffusers, defaults filled in."""
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in component.config.items()}
    return {k: v for k, v in plain.items() if not k.startswith("_")}


@pytest.fixture
def saved(tmp_path):
    """A function that saves a network and a scheduler as diffusers does, and returns the folder."""
    return lambda unet, scheduler: save_folder(tmp_path / "theirs", unet, scheduler)


CONFIGURATIONS = {
    "defaults": {},
    "as the published CIFAR-10 model": {
        "in_channels": 3,
        "out_channels": 3,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
        "attention_head_dim": None,
        "dropout": 0.1,
    },
    "classes, 28x20": {
        "sample_size": (28, 20),
        "in_channels": 4,
        "out_channels": 4,
        "num_class_embeds": 3,
        "center_input_sample": True,
        "resnet_time_scale_shift": "scale_shift",
    },
    "resampling blocks": {
        "sample_size": 12,
        "block_out_channels": (8, 16, 12),
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": 5,
    },
    "groups and scales of the middle": {
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 2,
        "mid_block_scale_factor": 1.4,
        "time_embedding_dim": 20,
        "act_fn": "gelu",
        "attention_head_dim": 16,
    },
    "learned times, no attention": {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "add_attention": False,
        "time_embedding_type": "learned",
        "num_train_timesteps": 1000,
        "layers_per_block": 2,
    },
    "no middle": {"mid_block_type": None, "act_fn": "mish"},
}


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@torch.inference_mode()
def test_the_network_is_theirs(options, saved, tmp_path):
    """The same output within 1e-5 at ten times, for random weights; exported, they are the same bytes."""
    unet = random_unet(**options)
    folder = saved(unet, DDPMScheduler())
    model = interop.import_model(folder).model
    interop.export_model(model, tmp_path / "ours", "diffusers")
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert read_config(UNet2DModel.from_config(UNet2DModel.load_config(tmp_path / "ours" / "unet"))) == read_config(
        unet
    )
    x = torch.randn(2, *model.dataset_info.shape)
    cond = torch.tensor([2, 0]) if options.get("num_class_embeds") else None
    for t in TIMES:
        theirs = unet(x, t, class_labels=cond).sample
        ours = model.denoiser.network(x, torch.full((2,), float(t)), cond)
        assert float((ours - theirs).abs().max()) < 1e-5, t


SCHEDULERS = {
    "ddpm": DDPMScheduler(),
    "ddpm, large variance, linspace": DDPMScheduler(
        variance_type="fixed_large", timestep_spacing="linspace", beta_schedule="squaredcos_cap_v2", clip_sample=False
    ),
    "ddpm, x0, sigmoid betas": DDPMScheduler(prediction_type="sample", beta_schedule="sigmoid", steps_offset=1),
    "ddpm, learned range": DDPMScheduler(variance_type="learned_range"),
    "ddpm, v, zero terminal SNR": DDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "ddim": DDIMScheduler(clip_sample=False),
    "ddim, clipped": DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False),
    "ddim, trained betas": DDIMScheduler(
        num_train_timesteps=200, trained_betas=np.linspace(1e-4, 0.05, 200).tolist(), timestep_spacing="trailing"
    ),
    "dpm-solver++": DPMSolverMultistepScheduler(),
    "dpm-solver++, leading": DPMSolverMultistepScheduler(
        timestep_spacing="leading", steps_offset=1, beta_schedule="scaled_linear", thresholding=True
    ),
    "dpm-solver++, v, cosine": DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
    ),
    "sde-dpm-solver++": DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", final_sigmas_type="sigma_min"),
    "unipc": UniPCMultistepScheduler(),
    "unipc, leading": UniPCMultistepScheduler(timestep_spacing="leading", final_sigmas_type="sigma_min"),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
@torch.inference_mode()
def test_the_trajectory_is_theirs(scheduler, saved, tmp_path, monkeypatch):
    """20 steps from the same noise: every state within 1e-4 of its scale; exported, it is the same scheduler."""
    learned = scheduler.config.get("variance_type") == "learned_range"
    unet = random_unet(out_channels=2 if learned else 1, **ONE_LEVEL)
    model = interop.import_model(saved(unet, scheduler)).model
    interop.export_model(model, tmp_path / "ours", "diffusers", {"steps": 20})
    unused = {"beta_start", "beta_end"} if scheduler.config.beta_schedule == "squaredcos_cap_v2" else set()
    again = read_config(type(scheduler).from_pretrained(tmp_path / "ours" / "scheduler"))
    assert {k: v for k, v in read_config(scheduler).items() if k not in unused and again[k] != v} == {}
    pipeline = fn.Pipeline(model, device="cpu", precision="fp32")
    noise = Noise(0, torch.arange(2))
    x = noise.image(pipeline.shape, Stream.START, like=torch.empty(0))
    scheduler.set_timesteps(20)
    states = [step.step.x for step in pipeline.steps(2, steps=20, seed=0)]
    for i, (t, ours) in enumerate(zip(scheduler.timesteps, states, strict=True)):
        z = noise.image(pipeline.shape, Stream.STEP, i * 16, like=x)
        for module in (scheduling_ddpm, scheduling_dpmsolver_multistep):
            monkeypatch.setattr(module, "randn_tensor", lambda *a, z=z, **kw: z)
        options = {"use_clipped_model_output": True} if isinstance(scheduler, DDIMScheduler) else {}
        x = scheduler.step(unet(x, t).sample, t, x, **options).prev_sample
        assert float((ours - x).abs().max() / x.abs().max().clamp(min=1)) < 1e-4, (i, int(t))


def test_a_bare_network(saved):
    """Its scheduler is assumed, which a note says, or named."""
    folder = saved(random_unet(), DDPMScheduler(prediction_type="v_prediction"))
    bare = interop.import_model(folder / "unet")
    assert bare.model.recipe.diffusion.target.kind == "eps" and "assumed" in bare.notes[0]
    named = interop.import_model(
        folder / "unet", options={"scheduler": str(folder / "scheduler" / "scheduler_config.json")}
    )
    assert named.model.recipe.diffusion.target.kind == "v" and named.notes == []


def test_names_of_early_versions(saved):
    """Attention weights as versions before 0.16 saved them."""
    folder = saved(random_unet(), DDPMScheduler())
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    before = interop.import_model(folder).model.denoiser.state_dict()
    for new, name in old.items():
        tensors = {key.replace(f".{new}.", f".{name}."): t for key, t in tensors.items()}
    save_file(tensors, path)
    after = interop.import_model(folder)
    assert all(torch.equal(before[key], t) for key, t in after.model.denoiser.state_dict().items())
    assert "renamed" in after.notes[0]


def test_other_schedulers_give_the_model_alone(saved):
    """A class without a sampler of the same steps: the model with fromnoise's sampler."""
    folder = saved(random_unet(), PNDMScheduler(prediction_type="v_prediction"))
    with pytest.raises(fn.UserError, match="_class_name = 'PNDMScheduler'.*--sampling default"):
        interop.import_model(folder)
    model = interop.import_model(folder, options={"sampling": "default"}).model
    assert model.recipe.diffusion.target.kind == "v" and model.recipe.sample.sampler.kind == "ancestral"


def test_classes(saved):
    """A class for every image, or a row for none."""
    folder = saved(random_unet(num_class_embeds=4), DDPMScheduler())
    pipeline = fn.load(folder, device="cpu")
    with pytest.raises(fn.UserError, match="with a label only"):
        pipeline.sample(1, steps=1)
    assert pipeline.sample(4, steps=1, label="all").shape == (4, 1, 8, 8)
    with_null = interop.import_model(folder, options={"null_class": 0}).model
    network, t = with_null.denoiser.network, torch.zeros(2)
    x = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1)
    assert with_null.dataset_info.class_names == ("0", "1", "2")
    theirs = pipeline.denoiser.network(x, t, torch.tensor([0, 2]))
    torch.testing.assert_close(network(x, t, torch.tensor([-1, 1])), theirs)


WRONG = {
    "unet/config.json": [
        ({"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]}, "down_block_types"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier'"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"sample_size": None}, "--size 32"),
        ({"sample_size": 1e99}, "sample_size"),
        ({"block_out_channels": [10**30]}, "too large"),
        ({"block_out_channels": [8, -16]}, "1 or more"),
        ({"block_out_channels": [8, 24]}, "weights do not fit"),
        ({"norm_num_groups": 5}, "norm_num_groups=5"),
        ({"norm_eps": float("nan")}, "norm_eps"),
        ({"layers_per_block": True}, "layers_per_block"),
        ({"layers_per_block": {"a": [1]}}, "layers_per_block"),
        ({"attention_head_dim": 64}, "attention_head_dim"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name"),
        ({"act_fn": "\x1b[2J"}, "act_fn"),
    ],
    "scheduler/scheduler_config.json": [
        ({"beta_schedule": "laplace"}, "beta_schedule = 'laplace'"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"trained_betas": [0.1, float("nan")], "num_train_timesteps": 2}, "each beta must lie"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ({"beta_start": "__import__('os')"}, "beta_start"),
        ({"variance_type": "learned"}, "variance_type = 'learned'"),
        ({"variance_type": "learned_range"}, "out_channels"),
        ({"clip_sample_range": 2.0}, "clip_sample_range"),
        ({"timestep_spacing": None}, "timestep_spacing"),
        ({"rescale_betas_zero_snr": True}, "zero_terminal_snr"),
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that the tests copy."""
    return save_folder(tmp_path_factory.mktemp("theirs"), random_unet(), DDPMScheduler())


@pytest.mark.parametrize(("file", "values", "named"), [(f, *case) for f, cases in WRONG.items() for case in cases])
def test_what_is_not_supported_is_named(file, values, named, folder, tmp_path):
    """One printable line with the name of the option."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(fn.UserError, match=named.replace("(", r"\(")) as caught:
        interop.import_model(copy)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "{", '{"a": ' * 5000, "\x00\xff", "NaN", '{"unet": 3}'])
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_hostile_json(text, file, folder, tmp_path):
    """One line, whatever the file holds; an index that names no parts is like none."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / file).write_text(text)
    if file == "model_index.json" and text == '{"unet": 3}':
        return
    with pytest.raises(fn.UserError) as caught:
        interop.import_model(copy)
    assert str(caught.value).isprintable()


def test_missing_and_other_files(folder, tmp_path):
    """Weights that are missing, truncated or pickled, another pipeline, and what is no model."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(fn.UserError, match="cannot be read as .safetensors"):
        interop.import_model(copy)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(fn.UserError, match="fromnoise import alone"):
        interop.import_model(copy)
    (copy / "model_index.json").write_text('{"vae": ["diffusers", "VQModel"], "unet": ["diffusers", "UNet2DModel"]}')
    with pytest.raises(fn.UserError, match="a pipeline with vae"):
        interop.import_model(copy)
    with pytest.raises(fn.UserError, match="not a model that can be imported"):
        interop.import_model(tmp_path)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@torch.inference_mode()
def test_a_network_of_another_pixel_range(prediction, saved):
    """A network of images in [0, 1]: our states are its states in the coordinates of [-1, 1]."""
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False, timestep_spacing="trailing")
    unet = random_unet(**ONE_LEVEL)
    model = interop.import_model(saved(unet, scheduler), value_range=(0.0, 1.0)).model
    pipeline = fn.Pipeline(model, device="cpu", precision="fp32")
    levels = model.levels(model.recipe.sample.model_copy(update={"steps": 20}))
    target, noise = model.denoiser.target, Noise(0, torch.arange(2))
    y = target.scale_input(noise.image(pipeline.shape, Stream.START, like=torch.empty(0)), levels[0])
    scheduler.set_timesteps(20)
    for t, step, level in zip(scheduler.timesteps, pipeline.steps(2, steps=20), levels[1:], strict=True):
        y = scheduler.step(unet(y, t).sample, t, y).prev_sample
        ours = target.scale_input(step.step.x, level) if level.sigma > 0 else (step.step.x + 1) / 2
        assert float((ours - y).abs().max() / y.abs().max().clamp(min=1)) < 1e-4, int(t)
