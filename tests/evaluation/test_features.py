"""Feature extractors: their values, their cache, and the accuracy of the networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from fromnoise.data import Data, MemoryImages, load
from fromnoise.evaluation.features import convnet, simclr
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.features.select import select_features
from fromnoise.evaluation.features.trained import ClassifierFeatures, classifier_features, self_supervised_features
from fromnoise.evaluation.metrics.frechet import jackknifed_frechet
from fromnoise.evaluation.metrics.kid import kernel_distance
from fromnoise.evaluation.statistics import Moments, split_moments
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def striped() -> Data:
    """Four classes that are easy to classify: which quarter of a 7x12 colour image is bright."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    pixels = torch.randint(0, 120, (400, 3, 7, 12), generator=generator)
    for i, label in enumerate(labels):
        pixels[i, :, :, 3 * label : 3 * label + 3] += 100
    pixels = pixels.to(torch.uint8)
    train, held_out = MemoryImages(pixels[:320], labels[:320]), MemoryImages(pixels[320:], labels[320:])
    return Data(train, held_out, ("a", "b", "c", "d"), (3, 7, 12), "f00d", 0)


CPU = select_device("cpu", "fp32")


def test_pixel_features_equal_the_pixels():
    """In [0, 1], of small images."""
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    found = PixelFeatures((3, 4, 5)).features(images)
    assert found.dtype == torch.float64 and found.shape == (2, 60)
    np.testing.assert_allclose(found.numpy(), images.reshape(2, 60).numpy() / 255, rtol=1e-15)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 33, 65), (3, 37, 201)])
def test_pixel_features_of_large_images_are_averages(shape):
    """At most 1,024 features; constant images keep their value up to the border."""
    pixels = PixelFeatures(shape)
    found = pixels.features(torch.full((2, *shape), 51, dtype=torch.uint8))
    assert found.shape == (2, pixels.dim) and pixels.dim <= 1024
    np.testing.assert_allclose(found.numpy(), 0.2, rtol=1e-12)


def test_classifier_is_trained_once_and_cached(striped, tmp_path, monkeypatch):
    """Read the second time, with bit-identical features, from a safetensors file."""
    monkeypatch.setattr(convnet, "_EPOCHS", 20)
    lines, steps = [], []
    first = classifier_features(striped, compute=CPU, log=lines.append, on_step=lambda done, total: steps.append(done))
    assert first.accuracy > 0.95 and f"{first.accuracy:.2%}" in lines[0]
    assert steps == list(range(1, convnet.TrainingPlan.for_images(320).steps + 1))
    again = classifier_features(striped, compute=CPU, on_step=lambda done, total: pytest.fail("trained again"))
    images = striped.held_out.get(torch.arange(80))
    assert torch.equal(first.features(images), again.features(images)) and again.accuracy == first.accuracy
    assert first.features(images).shape == (80, first.dim) and first.features(images).dtype == torch.float64
    probabilities = first.probabilities(images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(80, dtype=torch.float64))
    assert float((probabilities.argmax(1) == striped.held_out.labels).double().mean()) == pytest.approx(first.accuracy)
    (file,) = (tmp_path / "cache").rglob("*.*")
    assert file.suffix == ".safetensors"


def test_another_split_or_a_damaged_file_is_trained_again(striped, tmp_path, monkeypatch):
    """A cached network must not have seen the images that are held out now."""
    monkeypatch.setattr(convnet, "_EPOCHS", 1)
    classifier_features(striped, compute=CPU)
    swapped = Data(striped.held_out, striped.train, striped.class_names, striped.shape, striped.fingerprint, 0)
    classifier_features(swapped, compute=CPU)
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:-9])
    steps = []
    classifier_features(striped, compute=CPU, on_step=lambda done, total: steps.append(done))
    assert steps


def test_features_do_not_depend_on_the_batch(striped):
    """Of any size."""
    found = ClassifierFeatures(convnet.classifier_network(striped.shape, 4), ("a", "b", "c", "d"), 0.0, CPU)
    images = striped.train.get(torch.arange(60))
    torch.testing.assert_close(
        found.extract_all(images, 7).features, found.extract_all(images, 60).features, rtol=1e-4, atol=1e-5
    )


def test_classifier_without_labels(striped):
    """The error names an alternative."""
    bare = Data(striped.train, striped.held_out, None, striped.shape, "", 0)
    with pytest.raises(UserError, match="--features self-supervised"):
        classifier_features(bare, compute=CPU)
    with pytest.raises(UserError, match="have no classes"):
        PixelFeatures(bare.shape).probabilities(striped.train.get(torch.arange(2)))


@pytest.mark.slow
def test_classifier_features_of_digits():
    """At least as accurate as a linear model of the pixels; they separate classes, but not halves of one class."""
    data = load("digits")
    classifier = classifier_features(data, compute=CPU)
    pixels, labels = load_digits(return_X_y=True)
    linear = LogisticRegression(max_iter=2000).fit(pixels[:1400] / 16, labels[:1400])
    assert classifier.accuracy >= linear.score(pixels[1400:] / 16, labels[1400:])
    found = classifier.features(data.train.get(torch.arange(len(data.train))))
    three, eight = (found[data.train.labels == c] for c in (3, 8))
    between, within = kernel_distance(three, eight), kernel_distance(three[::2], three[1::2])
    assert between.value > 20 * between.error and abs(within.value) < 4 * within.error


@pytest.mark.long
def test_classifier_of_mnist(real_data, monkeypatch):
    """98 % with a tenth of the usual training; benchmarks/metric_ranking.py prints the accuracy after all of it."""
    monkeypatch.setenv("FROMNOISE_DATA", str(real_data))
    monkeypatch.setattr(convnet, "_IMAGES", 30_000)
    assert classifier_features(load("mnist"), compute=CPU).accuracy >= 0.98


# ---- without labels


def test_random_views_keep_range_and_brightness():
    """Two views of an image differ; those of a constant image do not."""
    images = torch.randint(0, 256, (16, 3, 9, 14), dtype=torch.uint8)
    one, other = simclr.random_view(images), simclr.random_view(images)
    assert one.shape == images.shape and one.dtype == torch.float32 and not torch.equal(one, other)
    assert float(one.min()) >= -1 and float(one.max()) <= 1
    flat = torch.full((4, 1, 8, 8), 51, dtype=torch.uint8)
    torch.testing.assert_close(simclr.random_view(flat), torch.full((4, 1, 8, 8), 51 / 127.5 - 1), atol=1e-6, rtol=0)


def test_nt_xent_equals_its_definition():
    """Equation 1 of Chen et al., pair by pair."""
    embeddings = torch.randn(10, 4, dtype=torch.float64)
    z = embeddings / embeddings.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(10):
        similarity = {k: math.exp(float(z[i] @ z[k]) / 0.2) for k in range(10) if k != i}
        total -= math.log(similarity[(i + 5) % 10] / sum(similarity.values()))
    assert float(simclr.nt_xent(embeddings)) == pytest.approx(total / 10, rel=1e-9)


def test_self_supervised_features_are_trained_once_and_cached(striped, monkeypatch):
    """Without labels; bit-identical the second time; not in the classifier's file."""
    bare = Data(striped.train, striped.held_out, None, striped.shape, striped.fingerprint, 0)
    monkeypatch.setattr(convnet, "_EPOCHS", 8)
    steps, lines = [], []
    first = self_supervised_features(
        bare, compute=CPU, log=lines.append, on_step=lambda done, total: steps.append(total)
    )
    assert first.retrieval_accuracy > 0.1 and f"{first.retrieval_accuracy:.1%}" in lines[0]  # 1/80 by chance
    assert len(steps) == steps[0]
    again = self_supervised_features(bare, compute=CPU, on_step=lambda done, total: pytest.fail("trained again"))
    images = striped.held_out.get(torch.arange(80))
    assert (
        torch.equal(first.features(images), again.features(images))
        and again.retrieval_accuracy == first.retrieval_accuracy
    )
    assert first.features(images).shape == (80, first.dim) and first.extract(images).probabilities is None
    assert select_features(None, bare, compute=CPU).name == "self-supervised"


@pytest.mark.slow
def test_self_supervised_distance_grows_with_distortion(monkeypatch):
    """Blur, noise, brightness and missing digits; and unlike pixels they detect a Gaussian with the digits' moments."""
    data = load("digits", holdout=0.34, log=lambda line: None)
    bare = Data(data.train, data.held_out, None, data.shape, data.fingerprint, 0)
    simclr_features = self_supervised_features(bare, compute=CPU)
    x, labels = data.held_out.get(torch.arange(len(data.held_out))).double(), data.held_out.labels
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    soft = F.avg_pool2d(F.pad(x, (1,) * 4, mode="replicate"), 3, 1)
    flat = x.flatten(1)
    values, axes = torch.linalg.eigh(torch.cov(flat.T))
    z = torch.randn(flat.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gaussian = (flat.mean(0) + (z * values.clamp(min=0).sqrt()) @ axes.T).view_as(x)
    distortions = {
        "blur": [x, 0.7 * x + 0.3 * soft, 0.4 * x + 0.6 * soft, soft],
        "noise": [x, x + 16 * noise, x + 32 * noise, x + 64 * noise],
        "brightness": [x, x + 20, x + 40, x + 80],
        "missing": [x, x[labels > 1], x[labels > 3], x[labels > 5]],
        "Gaussian": [x, gaussian],
    }
    train = data.train.get(torch.arange(len(data.train)))
    z_score = {}
    for extractor in (simclr_features, PixelFeatures(bare.shape)):
        real = Moments.of(extractor.features(train))
        for name, samples in distortions.items():
            vectors = [extractor.features(s.round().clamp(0, 255).to(torch.uint8)) for s in samples]
            found = [jackknifed_frechet(split_moments(v), real) for v in vectors]
            if extractor is simclr_features:
                assert all(a.value < b.value for a, b in zip(found, found[1:], strict=False)), name
            difference = found[-1].value - found[0].value
            z_score[extractor.name, name] = difference / math.hypot(found[0].error, found[-1].error)
    assert z_score["self-supervised", "Gaussian"] > z_score["pixels", "Gaussian"] > 0
