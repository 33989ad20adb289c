"""Code lengths of models that are known in closed form: one that learned by heart, and one that did not."""

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
from fromnoise.evaluation import findings, memorization
from fromnoise.evaluation.memorization import Lengths
from fromnoise.evaluation.metrics.frechet import Estimate
from fromnoise.evaluation.sources import ModelSource, RealImages
from fromnoise.model import Model, build
from fromnoise.utils.device import select_device

CPU = select_device("cpu", "fp32")


class Known(GaussianMixture):
    """Stands where a network would."""

    learned_variance, pseudo_labels = False, None

    def __call__(self, x, level, cond=None, previous=None):
        """All images are at one level."""
        one = [getattr(level, field.name).flatten()[0] for field in dataclasses.fields(NoiseLevel)]
        return super().__call__(x, NoiseLevel(*one), cond, previous)


@pytest.fixture(scope="module")
def data(digits) -> Data:
    """Digits of 4x4: 200 to learn from, 200 held out."""
    small = [F.avg_pool2d(i.get(torch.arange(200)).float(), 2).byte() for i in (digits.train, digits.held_out)]
    return Data(MemoryImages(small[0]), MemoryImages(small[1]), None, (1, 4, 4), "d161", 0)


def exact(data: Data, learned: str) -> Model:
    """A model whose density is known: a narrow Gaussian around each training image, or one around all of them."""
    x = to_float(data.train.get(torch.arange(len(data.train)))).flatten(1)
    if learned == "each image":
        mixture = Known(torch.ones(len(x)), x, 0.003 * torch.eye(16).expand(len(x), 16, 16))
    else:
        mixture = Known(torch.ones(1), x.mean(0)[None], torch.cov(x.T)[None] + 0.003 * torch.eye(16))
    model = build(recipes.load("digits", {"train.seed": 0}), DatasetInfo((1, 4, 4), fingerprint=data.fingerprint))
    return dataclasses.replace(model, denoiser=mixture)  # called as a Denoiser is


def measured(model: Model, data: Data) -> Lengths:
    return memorization.lengths(model, data, CPU, 64, lambda more: None)


def test_what_was_learned_by_heart_is_found(data):
    """Training images cost a mixture around them bits less; a Gaussian of all of them knows none of them."""
    heart, kind = (measured(exact(data, learned), data) for learned in ("each image", "the kind"))
    assert heart.gap.value > 10 * heart.gap.error > 0 and heart.training.value < heart.held_out.value
    assert [f.key for f in findings.of_lengths(heart)] == ["memorised"]
    assert list(findings.of_lengths(kind)) == []
    assert kind.held_out.n == kind.training.n == kind.gap.n == 64


def test_bits_are_told_in_single_precision(data):
    """A run that draws in bf16 has the bits of one that does not."""
    small = {"width": 8, "multipliers": [1], "groups": 4, "attention_resolutions": [], "heads": 1, "zero_output": False}
    told = {f"network.{key}": value for key, value in small.items()}
    model = build(recipes.load("digits", told), DatasetInfo((1, 4, 4), fingerprint=data.fingerprint))
    model.denoiser.eval()
    one, other = (
        memorization.lengths(model, data, c, 4, lambda more: None) for c in (CPU, select_device("cpu", "bf16"))
    )
    assert one == other


def test_the_gap_is_that_of_least_squares():
    """Of numpy: code length on piece and roughness, with the textbook's standard error; and less error than without."""
    rng = np.random.default_rng(0)
    rough, piece = rng.normal(3, 1, 90), np.repeat([1.0, 0.0], [40, 50])
    bits = 2 * rough + 0.3 * piece + rng.normal(0, 0.2, 90)
    design = np.stack([np.ones(90), piece, rough], 1)
    solution, residual, *_ = np.linalg.lstsq(design, bits, rcond=None)
    error = math.sqrt(np.linalg.inv(design.T @ design)[1, 1] * residual[0] / 87)
    found = memorization.gap(*(torch.from_numpy(v) for v in (bits[:40], bits[40:], rough[:40], rough[40:])))
    assert found.value == pytest.approx(solution[1], rel=1e-9) and found.error == pytest.approx(error, rel=1e-9)
    plain = math.hypot(bits[:40].std() / 40**0.5, bits[40:].std() / 50**0.5)
    assert found.error < plain / 5 and found.n == 40


def test_flat_images_have_a_gap():
    """Nothing to divide by."""
    flat = torch.zeros(4, dtype=torch.float64)
    found = memorization.gap(flat + 2, flat + torch.tensor([0.5, 1.5, 0.5, 1.5]), flat, flat)
    assert found.value == 1.0 and found.error > 0


def test_roughness_by_hand():
    """A step of 3 in one of two rows: differences 0 0 down, but one of 3, and 3 and 0 across."""
    image = torch.tensor([[[[5, 8], [5, 5]]]], dtype=torch.uint8)
    assert float(memorization.roughness(image)) == pytest.approx(2 * math.log(4) / 4)
    assert float(memorization.roughness(torch.full((1, 3, 5, 7), 9, dtype=torch.uint8))) == 0


@pytest.mark.parametrize(("gap", "told"), [(0.5, True), (0.2, False), (0.05, False), (-1.0, False)])
def test_a_gap_that_is_sure_and_large(gap, told):
    """More than three standard errors, and two per cent of the whole."""
    some = Estimate(4.0, 0.1, 64)
    found = Lengths(some, some, Estimate(gap, 0.1 if gap > 0.1 else 0.01, 64))
    assert bool(list(findings.of_lengths(found))) == told


def test_only_models_that_learned_from_these_images(data):
    """Not pictures, nor models of other images or of another split; each model once."""
    model = exact(data, "the kind")
    other = dataclasses.replace(model, dataset_info=dataclasses.replace(model.dataset_info, fingerprint="0"))
    split = dataclasses.replace(model, recipe=recipes.load("digits", {"data.holdout": 0.5}))
    subjects = [RealImages("pictures", data.held_out)] + [
        ModelSource(name, m, m.recipe.sample, CPU, 20)
        for name, m in {"a": model, "b": model, "other": other, "split": split}.items()
    ]
    said: list[str] = []
    known = memorization.models(subjects, data, said.append)
    assert list(known) == ["a", "b"]
    assert [line.split()[0] for line in said] == ["other", "split"]
    assert memorization.images(known, data, 50) == 100
    seen: list[int] = []
    found = memorization.all_lengths(known, data, CPU, 8, lambda name, more: seen.append(more))
    assert found["a"] is found["b"] and sum(seen) == 16
    assert memorization.seconds(known, data, CPU, 8) > 0 and memorization.seconds({}, data, CPU, 8) == 0
