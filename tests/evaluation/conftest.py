"""Real digits, a quickly trained classifier of them, and a function that evaluates samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fromnoise.data import Data, MemoryImages, load
from fromnoise.evaluation.features import convnet
from fromnoise.evaluation.features.extractor import FeatureExtractor
from fromnoise.evaluation.features.trained import ClassifierFeatures, classifier_features
from fromnoise.evaluation.measurement import Measurement, measure
from fromnoise.evaluation.sources import RealImages
from fromnoise.utils.device import select_device


@pytest.fixture(scope="session")
def digits() -> Data:
    """The digits with a third held out, so that there are enough real images to evaluate."""
    return load("digits", holdout=0.34, log=lambda line: None)


@pytest.fixture(scope="session")
def extractor(digits, tmp_path_factory) -> ClassifierFeatures:
    """A classifier that was trained for a few epochs."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FROMNOISE_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(convnet, "_EPOCHS", 6)
    features = classifier_features(digits, compute=select_device("cpu", "fp32"))
    patch.undo()
    return features


@pytest.fixture(scope="session")
def halves(digits) -> tuple[Tensor, MemoryImages]:
    """Held-out images in two halves: samples of a perfect model, and the held-out part of the evaluation."""
    held = digits.held_out.get(torch.arange(len(digits.held_out)))
    return held[::2], MemoryImages(held[1::2])


@pytest.fixture(scope="session")
def evaluate(digits, extractor, halves) -> Callable[..., Measurement]:
    """``evaluate({"name": uint8 images, ...})`` against the training digits."""

    def evaluator(samples: dict[str, Tensor], features: FeatureExtractor | None = None) -> Measurement:
        sources = [RealImages(name, MemoryImages(images)) for name, images in samples.items()]
        return measure(sources, RealImages("training images", digits.train), halves[1], features or extractor)

    return evaluator
