"""Code lengths under models with known densities: one that has memorized its training images, and one that has not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fromnoise import config as recipes
from fromnoise.data import Data, MemoryImages, to_float
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.evaluation import memorization
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.memorization import CodeLengths
from fromnoise.evaluation.model_source import ModelSource
from fromnoise.evaluation.sample_checks import check_code_lengths
from fromnoise.evaluation.sources import RealImages
from fromnoise.model import Model, build
from fromnoise.utils.device import select_device

CPU = select_device("cpu", "fp32")


class KnownDensity(GaussianMixture):
    """A Gaussian mixture in place of a network."""

    learned_variance, pseudo_labels, network, latent_space = False, None, None, None

    def __call__(self, x, level, cond=None, previous=None):
        """Take one noise level for the whole batch."""
        one = [getattr(level, field.name).flatten()[0] for field in dataclasses.fields(NoiseLevel)]
        return super().__call__(x, NoiseLevel(*one), cond, previous)


@pytest.fixture(scope="module")
def data(digits) -> Data:
    """Digits of 4x4: 200 training images, 200 held out."""
    small = [F.avg_pool2d(i.get(torch.arange(200)).float(), 2).byte() for i in (digits.train, digits.held_out)]
    return Data(MemoryImages(small[0]), MemoryImages(small[1]), None, (1, 4, 4), "d161", 0)


def exact_model(data: Data, density: str) -> Model:
    """A narrow Gaussian around each training image, or one Gaussian fitted to all of them."""
    x = to_float(data.train.get(torch.arange(len(data.train)))).flatten(1)
    if density == "training images":
        mixture = KnownDensity(torch.ones(len(x)), x, 0.003 * torch.eye(16).expand(len(x), 16, 16))
    else:
        mixture = KnownDensity(torch.ones(1), x.mean(0)[None], torch.cov(x.T)[None] + 0.003 * torch.eye(16))
    model = build(recipes.load("digits", {"train.seed": 0}), DatasetInfo((1, 4, 4), fingerprint=data.fingerprint))
    mixture.schedule = model.schedule
    return dataclasses.replace(model, denoiser=mixture)  # called like a Denoiser


def measured(model: Model, data: Data) -> CodeLengths:
    return memorization.code_lengths(model, data, CPU, 64, lambda count: None)


def test_memorization_is_found(data):
    """Training images have shorter codes under a mixture around them; one Gaussian has memorized none of them."""
    memorized, general = (measured(exact_model(data, density), data) for density in ("training images", "one Gaussian"))
    assert memorized.gap.value > 10 * memorized.gap.error > 0
    assert memorized.training.value < memorized.held_out.value
    assert [f.key for f in check_code_lengths(memorized)] == ["memorization"]
    assert list(check_code_lengths(general)) == []
    assert general.held_out.n == general.training.n == general.gap.n == 64


def test_code_lengths_are_computed_in_single_precision(data):
    """Whatever the precision of the sampling."""
    small = {"width": 8, "multipliers": [1], "groups": 4, "attention_resolutions": [], "heads": 1, "zero_output": False}
    changes = {f"network.{key}": value for key, value in small.items()}
    model = build(recipes.load("digits", changes), DatasetInfo((1, 4, 4), fingerprint=data.fingerprint))
    model.denoiser.eval()
    one, other = (
        memorization.code_lengths(model, data, c, 4, lambda count: None) for c in (CPU, select_device("cpu", "bf16"))
    )
    assert one == other


def test_adjusted_gap_equals_least_squares():
    """numpy's regression on part and variation, with its standard error, which is less than without adjustment."""
    rng = np.random.default_rng(0)
    variation, part = rng.normal(3, 1, 90), np.repeat([1.0, 0.0], [40, 50])
    bits = 2 * variation + 0.3 * part + rng.normal(0, 0.2, 90)
    design = np.stack([np.ones(90), part, variation], 1)
    solution, residual, *_ = np.linalg.lstsq(design, bits, rcond=None)
    error = math.sqrt(np.linalg.inv(design.T @ design)[1, 1] * residual[0] / 87)
    found = memorization.adjusted_gap(
        *(torch.from_numpy(v) for v in (bits[:40], bits[40:], variation[:40], variation[40:]))
    )
    assert found.value == pytest.approx(solution[1], rel=1e-9) and found.error == pytest.approx(error, rel=1e-9)
    plain = math.hypot(bits[:40].std() / 40**0.5, bits[40:].std() / 50**0.5)
    assert found.error < plain / 5 and found.n == 40


def test_adjusted_gap_of_constant_images():
    """No division by their variation of zero."""
    flat = torch.zeros(4, dtype=torch.float64)
    found = memorization.adjusted_gap(flat + 2, flat + torch.tensor([0.5, 1.5, 0.5, 1.5]), flat, flat)
    assert found.value == 1.0 and found.error > 0


def test_local_variation_by_hand():
    """One pixel differs by 3: vertical differences 0 and 3, horizontal differences 3 and 0."""
    image = torch.tensor([[[[5, 8], [5, 5]]]], dtype=torch.uint8)
    assert float(memorization.local_variation(image)) == pytest.approx(2 * math.log(4) / 4)
    assert float(memorization.local_variation(torch.full((1, 3, 5, 7), 9, dtype=torch.uint8))) == 0


@pytest.mark.parametrize(("gap", "reported"), [(0.5, True), (0.2, False), (0.05, False), (-1.0, False)])
def test_a_significant_and_large_gap_is_reported(gap, reported):
    """Above three standard errors and two per cent of the held-out code length."""
    same = Estimate(4.0, 0.1, 64)
    lengths = CodeLengths(same, same, Estimate(gap, 0.1 if gap > 0.1 else 0.01, 64))
    assert bool(list(check_code_lengths(lengths))) == reported


def test_only_models_trained_on_these_images_are_compared(data):
    """Neither image files nor models of other data or of another split; each model once."""
    model = exact_model(data, "one Gaussian")
    other = dataclasses.replace(model, dataset_info=dataclasses.replace(model.dataset_info, fingerprint="0"))
    split = dataclasses.replace(model, recipe=recipes.load("digits", {"data.holdout": 0.5}))
    sources = [RealImages("files", data.held_out)] + [
        ModelSource(name, m, m.recipe.sample, CPU, 20)
        for name, m in {"a": model, "b": model, "other": other, "split": split}.items()
    ]
    lines: list[str] = []
    models = memorization.comparable_models(sources, data, lines.append)
    assert list(models) == ["a", "b"]
    assert [line.split()[0] for line in lines] == ["other", "split"]
    assert memorization.image_count(models, data, 50) == 100
    counts: list[int] = []
    found = memorization.all_code_lengths(models, data, CPU, 8, lambda name, count: counts.append(count))
    assert found["a"] is found["b"] and sum(counts) == 16
    assert (
        memorization.estimated_seconds(models, data, CPU, 8) > 0
        and memorization.estimated_seconds({}, data, CPU, 8) == 0
    )
