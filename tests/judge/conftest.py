"""Real digits, a quickly trained classifier of them, and samplers with known faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fromnoise.compute import choose
from fromnoise.data import Data, MemoryImages, load
from fromnoise.judge.measure import Measurement, measure
from fromnoise.judge.subjects import Real
from fromnoise.metrics import features, network


@pytest.fixture(scope="session")
def digits() -> Data:
    """A third of the digits held out, so that there is enough to draw real samples from."""
    return load("digits", holdout=0.34, log=lambda line: None)


@pytest.fixture(scope="session")
def space(digits, tmp_path_factory) -> features.Classifier:
    """A classifier that has seen the digits a few times."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FROMNOISE_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(network, "_EPOCHS", 6)
    learned = features.classifier(digits, compute=choose("cpu", "fp32"))
    patch.undo()
    return learned


@pytest.fixture(scope="session")
def halves(digits) -> tuple[Tensor, MemoryImages]:
    """Held-out images in two: what plays the samples of a perfect model, and what the floor is measured on."""
    held = digits.held_out.get(torch.arange(len(digits.held_out)))
    return held[::2], MemoryImages(held[1::2])


@pytest.fixture(scope="session")
def judge(digits, space, halves) -> Callable[..., Measurement]:
    """``judge({"name": uint8 images, ...})`` against the training digits."""

    def judging(samples: dict[str, Tensor], by: features.Features | None = None) -> Measurement:
        subjects = [Real(name, MemoryImages(images)) for name, images in samples.items()]
        return measure(subjects, Real("training", digits.train), halves[1], by or space)

    return judging
