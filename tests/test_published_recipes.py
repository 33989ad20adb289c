"""The recipes of published systems have the numbers of their sources, and ``--as-published`` samples as they do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.targets import X0, Eps, V
from fromnoise.model import Model, build

# Every number is the source's, written here without looking at the recipe. MNIST tutorials (S1, S2), denoising-
# diffusion-pytorch (S4), the Keras example (S5), Ho et al. (S6).
MSE_ON_NOISE: dict[str, Any] = {
    "diffusion.schedule.kind": "linear",
    "diffusion.schedule.steps": 1000,
    "diffusion.schedule.beta_start": 0.0001,
    "diffusion.schedule.beta_end": 0.02,
    "diffusion.target.kind": "eps",
    "diffusion.learned_variance": False,
    "diffusion.zero_terminal_snr": False,
    "loss.objective.kind": "simple",
    "loss.distance.kind": "mse",
    "loss.weighting.kind": "constant",
    "loss.time_sampler.kind": "uniform",
    "loss.offset_noise": 0.0,
    "loss.self_conditioning": False,
    "data.labels": False,
    "train.decay": "constant",
    "train.accumulate": 1,
    "train.optimizer.kind": "adam",
    "train.optimizer.betas": (0.9, 0.999),
    "published.sampler.kind": "ancestral",
    "published.steps": None,  # all of the schedule
    "published.guidance": 1.0,
    "published.threshold": None,
}
PULFER = MSE_ON_NOISE | {
    "data.size": (28, 28),
    "data.flip": False,
    "network.kind": "pulfer",
    "train.epochs": 20,
    "train.batch": 128,
    "train.lr": 1e-3,
    "train.optimizer.eps": 1e-8,
    "train.warmup": 0,
    "train.clip": None,
    "ema.decays": (),
    "ema.widths": (),
    "ema.best_epoch": True,
    "published.sampler.variance": 1.0,
    "published.clip": False,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "pulfer": PULFER | {"data.source": "mnist"},
    "pulfer-fashion": PULFER | {"data.source": "fashion_mnist"},
    "simple": MSE_ON_NOISE
    | {
        "data.source": "mnist",
        "data.size": (28, 28),
        "data.flip": False,
        "network.kind": "simple",
        "train.epochs": 50,
        "train.batch": 128,
        "train.lr": 2e-4,
        "train.optimizer.eps": 1e-8,
        "train.warmup": 0,
        "train.clip": None,
        "ema.decays": (),
        "ema.widths": (),
        "ema.best_epoch": False,
        "published.sampler.variance": 0.0,
        "published.clip": False,
    },
    "unet": {
        "data.size": (128, 128),
        "data.resize": "bilinear",
        "data.flip": True,
        "data.labels": False,
        "network.kind": "lucidrains",
        "network.width": 64,
        "network.multipliers": (1, 2, 4, 8),
        "network.full_attention": None,  # the last level alone
        "network.heads": 4,
        "network.head_dim": 32,
        "network.memory_kv": 4,
        "network.dropout": 0.0,
        "network.theta": 10000.0,
        "diffusion.schedule.kind": "sigmoid",
        "diffusion.schedule.steps": 1000,
        "diffusion.schedule.start": -3.0,
        "diffusion.schedule.end": 3.0,
        "diffusion.schedule.temperature": 1.0,
        "diffusion.target.kind": "v",
        "diffusion.learned_variance": False,
        "diffusion.zero_terminal_snr": False,
        "loss.objective.kind": "simple",
        "loss.distance.kind": "mse",
        "loss.weighting.kind": "snr",
        "loss.time_sampler.kind": "uniform",
        "loss.offset_noise": 0.0,
        "loss.self_conditioning": False,
        "loss.self_conditioning_clip": False,
        "train.steps": 700_000,
        "train.batch": 2 * 32,
        "train.accumulate": 2,
        "train.lr": 8e-5,
        "train.warmup": 0,
        "train.decay": "constant",
        "train.clip": 1.0,
        "train.optimizer.kind": "adam",
        "train.optimizer.betas": (0.9, 0.99),
        "train.optimizer.eps": 1e-8,
        "ema.decays": (0.995,),
        "ema.widths": (),
        "ema.warmup": "power",
        "ema.update_every": 10,
        "ema.update_after": 100,
        "published.sampler.kind": "ddim",
        "published.sampler.eta": 0.0,
        "published.steps": 250,
        "published.clip": True,
        "published.guidance": 1.0,
        "published.threshold": None,
    },
    "flowers": MSE_ON_NOISE
    | {
        "data.source": "flowers102_official",
        "data.size": (64, 64),
        "data.resize": "bilinear",
        "data.flip": True,
        "network.kind": "unet",
        "network.width": 64,
        "network.multipliers": (1, 2, 4, 8),
        "network.blocks": 2,
        "network.blocks_up": 3,
        "network.attention_resolutions": (16, 8),
        "network.attention_residual": "normalized",
        "network.middle_attention": True,
        "network.heads": 1,
        "network.head_dim": None,
        "network.dropout": 0.0,
        "network.groups": 8,
        "network.norm_eps": 1e-3,
        "network.conditioning": "add",
        "network.upsampling": "nearest",
        "network.patch": 1,
        "network.positions": False,
        "network.time_dim": 256,
        "network.init": "variance-scaling",
        "network.zero_output": True,
        "train.steps": 31 * 800,
        "train.batch": 32,
        "train.lr": 2e-4,
        "train.optimizer.eps": 1e-7,
        "train.warmup": 0,
        "train.clip": None,
        "ema.decays": (0.999,),
        "ema.widths": (),
        "ema.warmup": "none",
        "ema.update_every": 1,
        "ema.update_after": 0,
        "published.sampler.variance": 0.0,
        "published.clip": True,
    },
    "ho2020": MSE_ON_NOISE
    | {
        "data.source": "cifar10",
        "data.size": (32, 32),
        "data.flip": True,
        "network.kind": "unet",
        "network.width": 128,
        "network.multipliers": (1, 2, 2, 2),
        "network.blocks": 2,
        "network.blocks_up": 3,
        "network.attention_resolutions": (16,),
        "network.attention_residual": "input",
        "network.middle_attention": True,
        "network.heads": 1,
        "network.head_dim": None,
        "network.dropout": 0.1,
        "network.groups": 32,
        "network.norm_eps": 1e-6,
        "network.conditioning": "add",
        "network.upsampling": "nearest",
        "network.patch": 1,
        "network.positions": False,
        "network.init": "variance-scaling",
        "network.zero_output": True,
        "train.steps": 800_000,
        "train.batch": 128,
        "train.lr": 2e-4,
        "train.optimizer.eps": 1e-8,
        "train.warmup": 5000,
        "train.clip": 1.0,
        "ema.decays": (0.9999,),
        "ema.widths": (),
        "ema.warmup": "none",
        "ema.update_every": 1,
        "ema.update_after": 1,
        "published.sampler.variance": 1.0,
        "published.clip": True,
    },
}
SIZES = {"pulfer": (1, 28), "pulfer-fashion": (1, 28), "simple": (1, 28), "unet": (3, 128), "flowers": (3, 64)}
PARAMETERS = {
    "pulfer": 506_852,
    "pulfer-fashion": 506_852,
    "simple": 858_753,
    "unet": 35_711_491,
    "flowers": 63_200_387,
    "ho2020": 35_746_307,
}


def build_on_meta(name: str, overrides: dict[str, Any] | None = None) -> Model:
    """The model of a recipe without weights, at the size of its data."""
    channels, side = SIZES.get(name, (3, 32))
    return build(recipes.load(name, overrides), DatasetInfo((channels, side, side)), device="meta")


def test_every_recipe_with_published_sampling_is_in_the_table() -> None:
    """No published recipe is left out."""
    assert {name for name in recipes.names() if recipes.load(name).published is not None} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_equals_its_source(name: str) -> None:
    """Each key has the source's value; the table has every option of the network and the optimizer that matters."""
    recipe = recipes.load(name)
    assert {key: recipes.get(recipe, key) for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_of_the_recipe(name: str) -> None:
    """The published count, or that of the source's layer table."""
    assert build_on_meta(name).parameters == PARAMETERS[name]


def test_self_conditioning_of_unet() -> None:
    """Three more input channels of the 7x7 stem: 9,408 parameters, and the estimate is not clipped."""
    model = build_on_meta("unet", {"loss.self_conditioning": True})
    assert model.parameters == 35_720_899 and not model.denoiser.self_conditioning_clip


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "unet"])
def test_published_ancestral_sampling_visits_every_timestep(name: str) -> None:
    """t = 1000, 999, ..., 1, 0 of 1000, with the source's variance."""
    model = build_on_meta(name)
    config = model.recipe.published
    assert config is not None
    times = [float(level.t) * 1000 for level in model.levels(config)]
    np.testing.assert_allclose(times, np.arange(1000, -1, -1), atol=1e-9)


def test_published_ddim_timesteps_of_unet() -> None:
    """The source's timesteps, counted from 0: linspace(-1, 999, 251), truncated to integers, in reverse."""
    model = build_on_meta("unet")
    config = model.recipe.published
    assert config is not None
    published = torch.linspace(-1, 999, steps=251).int().flip(0)
    times = [round(float(level.t) * 1000) - 1 for level in model.levels(config)]
    assert times == published.tolist()


def test_snr_weighting_is_that_of_the_source() -> None:
    """1 for the noise, SNR for x_0 and SNR/(SNR + 1) for v, at every level of the sigmoid schedule."""
    weighting = build_on_meta("unet").training_loss().objective.weighting
    steps = torch.arange(1, 1001, dtype=torch.float64) / 1000
    level = build_on_meta("unet").schedule.at(steps)
    snr = (level.alpha / level.sigma) ** 2
    for target, expected in ((Eps(), torch.ones_like(snr)), (X0(), snr), (V(), snr / (snr + 1))):
        torch.testing.assert_close(weighting.weight(level, target), expected, rtol=1e-9, atol=0)


def test_sigmoid_schedule_is_that_of_the_source() -> None:
    """Its product of (1 - beta), recomputed with the betas clipped to 0.999, by math.exp."""
    count, start, end = 1000, -3.0, 3.0

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    low, high = sigmoid(start), sigmoid(end)
    products = [(high - sigmoid(k / count * (end - start) + start)) / (high - low) for k in range(count + 1)]
    betas = [min(1 - products[k + 1] / products[k], 0.999) for k in range(count)]
    schedule: Any = build_on_meta("unet").schedule
    np.testing.assert_allclose(schedule.betas.numpy(), betas, rtol=1e-9)
