"""Real digits, a quickly trained classifier of them, and samplers with known faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fromnoise.data import Data, MemoryImages, load
from fromnoise.evaluation.features import convnet, extractors
from fromnoise.evaluation.measurement import Measurement, measure
from fromnoise.evaluation.sources import RealImages
from fromnoise.utils.device import select_device


@pytest.fixture(scope="session")
def digits() -> Data:
    """A third of the digits held out, so that there is enough to draw real samples from."""
    return load("digits", holdout=0.34, log=lambda line: None)


@pytest.fixture(scope="session")
def space(digits, tmp_path_factory) -> extractors.Classifier:
    """A classifier that has seen the digits a few times."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FROMNOISE_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(convnet, "_EPOCHS", 6)
    learned = extractors.classifier(digits, compute=select_device("cpu", "fp32"))
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

    def self_evaluation(samples: dict[str, Tensor], by: extractors.Features | None = None) -> Measurement:
        subjects = [RealImages(name, MemoryImages(images)) for name, images in samples.items()]
        return measure(subjects, RealImages("training", digits.train), halves[1], by or space)

    return self_evaluation
