"""Features: what they are, that they are kept, and that the classifier can tell its classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fromnoise.compute import choose
from fromnoise.data import Data, MemoryImages, load
from fromnoise.errors import UserError
from fromnoise.metrics import features, network, pairs


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def striped() -> Data:
    """Four classes that are easy to tell: which quarter of an odd, unsquare colour image is bright."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    pixels = torch.randint(0, 120, (400, 3, 7, 12), generator=generator)
    for i, label in enumerate(labels):
        pixels[i, :, :, 3 * label : 3 * label + 3] += 100
    pixels = pixels.to(torch.uint8)
    train, held_out = MemoryImages(pixels[:320], labels[:320]), MemoryImages(pixels[320:], labels[320:])
    return Data(train, held_out, ("a", "b", "c", "d"), (3, 7, 12), "f00d", 0)


CPU = choose("cpu", "fp32")


def test_pixels_are_the_pixels():
    """In [0, 1], as many as there are."""
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    found = features.Pixels((3, 4, 5)).of(images)
    assert found.dtype == torch.float64 and found.shape == (2, 60)
    np.testing.assert_allclose(found.numpy(), images.reshape(2, 60).numpy() / 255, rtol=1e-15)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 33, 65), (3, 37, 201)])
def test_large_images_are_averaged(shape):
    """At most 1,024 numbers, and the mean brightness of flat images stays to the border."""
    pixels = features.Pixels(shape)
    found = pixels.of(torch.full((2, *shape), 51, dtype=torch.uint8))
    assert found.shape == (2, pixels.size) and pixels.size <= 1024
    np.testing.assert_allclose(found.numpy(), 0.2, rtol=1e-12)


def test_the_classifier_learns_and_is_kept(striped, tmp_path, monkeypatch):
    """Trained once; read the second time, with the same features to the bit; nothing in the file executes."""
    monkeypatch.setattr(network, "_EPOCHS", 20)
    lines, steps = [], []
    first = features.classifier(striped, compute=CPU, log=lines.append, watch=lambda done, total: steps.append(done))
    assert first.accuracy > 0.95 and f"{first.accuracy:.2%}" in lines[0]
    assert steps == list(range(1, network.Plan.of(320).steps + 1))
    again = features.classifier(striped, compute=CPU, watch=lambda done, total: pytest.fail("trained again"))
    images = striped.held_out.get(torch.arange(80))
    assert torch.equal(first.of(images), again.of(images)) and again.accuracy == first.accuracy
    assert first.of(images).shape == (80, first.size) and first.of(images).dtype == torch.float64
    told = first.probabilities(images)
    torch.testing.assert_close(told.sum(1), torch.ones(80, dtype=torch.float64))
    assert float((told.argmax(1) == striped.held_out.labels).double().mean()) == pytest.approx(first.accuracy)
    (file,) = (tmp_path / "cache").rglob("*.*")
    assert file.suffix == ".safetensors"


def test_another_split_and_a_damaged_file_are_trained_anew(striped, tmp_path, monkeypatch):
    """What was held out then may be trained on now."""
    monkeypatch.setattr(network, "_EPOCHS", 1)
    features.classifier(striped, compute=CPU)
    swapped = Data(striped.held_out, striped.train, striped.labels, striped.shape, striped.fingerprint, 0)
    features.classifier(swapped, compute=CPU)
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:-9])
    steps = []
    features.classifier(striped, compute=CPU, watch=lambda done, total: steps.append(done))
    assert steps


def test_the_batch_does_not_matter(striped):
    """An image's features do not depend on its neighbours."""
    found = features.Classifier(network.classifier(striped.shape, 4), ("a", "b", "c", "d"), 0.0, CPU)
    images = striped.train.get(torch.arange(60))
    torch.testing.assert_close(found.all(images, 7).features, found.all(images, 60).features, rtol=1e-4, atol=1e-5)


def test_without_labels(striped):
    """One line that names what to take."""
    bare = Data(striped.train, striped.held_out, None, striped.shape, "", 0)
    with pytest.raises(UserError, match="--features self-supervised"):
        features.classifier(bare, compute=CPU)
    with pytest.raises(UserError, match="know no classes"):
        features.pixels(bare).probabilities(striped.train.get(torch.arange(2)))


@pytest.mark.slow
def test_the_digits_features_tell_more_than_pixels():
    """At least as accurate as a linear model of the pixels; real classes lie apart, halves of one class do not."""
    data = load("digits")
    learned = features.classifier(data, compute=CPU)
    pixels, labels = load_digits(return_X_y=True)
    linear = LogisticRegression(max_iter=2000).fit(pixels[:1400] / 16, labels[:1400])
    assert learned.accuracy >= linear.score(pixels[1400:] / 16, labels[1400:])
    found = learned.of(data.train.get(torch.arange(len(data.train))))
    of = [found[data.train.labels == c] for c in (3, 8)]
    apart, together = pairs.kernel(of[0], of[1]), pairs.kernel(of[0][::2], of[0][1::2])
    assert apart.value > 20 * apart.error and abs(together.value) < 4 * together.error


@pytest.mark.long
def test_the_classifier_of_mnist(real_data, monkeypatch):
    """A tenth of the training that is usual, and still 98 %; benchmarks/judge.py prints the whole."""
    monkeypatch.setenv("FROMNOISE_DATA", str(real_data))
    monkeypatch.setattr(network, "_VIEWS", 30_000)
    assert features.classifier(load("mnist"), compute=CPU).accuracy >= 0.98
