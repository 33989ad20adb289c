"""Features: what they are, that they are kept, and that the classifier can tell its classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from fromnoise.data import Data, MemoryImages, load
from fromnoise.evaluation.features import convnet, extractors, select, simclr
from fromnoise.evaluation.metrics import frechet, prdc
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError


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


CPU = select_device("cpu", "fp32")


def test_pixels_are_the_pixels():
    """In [0, 1], as many as there are."""
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    found = extractors.Pixels((3, 4, 5)).of(images)
    assert found.dtype == torch.float64 and found.shape == (2, 60)
    np.testing.assert_allclose(found.numpy(), images.reshape(2, 60).numpy() / 255, rtol=1e-15)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 33, 65), (3, 37, 201)])
def test_large_images_are_averaged(shape):
    """At most 1,024 numbers, and the mean brightness of flat images stays to the border."""
    pixels = extractors.Pixels(shape)
    found = pixels.of(torch.full((2, *shape), 51, dtype=torch.uint8))
    assert found.shape == (2, pixels.size) and pixels.size <= 1024
    np.testing.assert_allclose(found.numpy(), 0.2, rtol=1e-12)


def test_the_classifier_learns_and_is_kept(striped, tmp_path, monkeypatch):
    """Trained once; read the second time, with the same features to the bit; nothing in the file executes."""
    monkeypatch.setattr(convnet, "_EPOCHS", 20)
    lines, steps = [], []
    first = extractors.classifier(
        striped, compute=CPU, log=lines.append, on_step=lambda done, total: steps.append(done)
    )
    assert first.accuracy > 0.95 and f"{first.accuracy:.2%}" in lines[0]
    assert steps == list(range(1, convnet.TrainingPlan.of(320).steps + 1))
    again = extractors.classifier(striped, compute=CPU, on_step=lambda done, total: pytest.fail("trained again"))
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
    monkeypatch.setattr(convnet, "_EPOCHS", 1)
    extractors.classifier(striped, compute=CPU)
    swapped = Data(striped.held_out, striped.train, striped.class_names, striped.shape, striped.fingerprint, 0)
    extractors.classifier(swapped, compute=CPU)
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:-9])
    steps = []
    extractors.classifier(striped, compute=CPU, on_step=lambda done, total: steps.append(done))
    assert steps


def test_the_batch_does_not_matter(striped):
    """An image's features do not depend on its neighbours."""
    found = extractors.Classifier(convnet.classifier(striped.shape, 4), ("a", "b", "c", "d"), 0.0, CPU)
    images = striped.train.get(torch.arange(60))
    torch.testing.assert_close(found.all(images, 7).features, found.all(images, 60).features, rtol=1e-4, atol=1e-5)


def test_without_labels(striped):
    """One line that names what to take."""
    bare = Data(striped.train, striped.held_out, None, striped.shape, "", 0)
    with pytest.raises(UserError, match="--features self-supervised"):
        extractors.classifier(bare, compute=CPU)
    with pytest.raises(UserError, match="know no classes"):
        extractors.pixels(bare).probabilities(striped.train.get(torch.arange(2)))


@pytest.mark.slow
def test_the_digits_features_tell_more_than_pixels():
    """At least as accurate as a linear model of the pixels; real classes lie apart, halves of one class do not."""
    data = load("digits")
    learned = extractors.classifier(data, compute=CPU)
    pixels, labels = load_digits(return_X_y=True)
    linear = LogisticRegression(max_iter=2000).fit(pixels[:1400] / 16, labels[:1400])
    assert learned.accuracy >= linear.score(pixels[1400:] / 16, labels[1400:])
    found = learned.of(data.train.get(torch.arange(len(data.train))))
    of = [found[data.train.labels == c] for c in (3, 8)]
    apart, together = prdc.kernel(of[0], of[1]), prdc.kernel(of[0][::2], of[0][1::2])
    assert apart.value > 20 * apart.error and abs(together.value) < 4 * together.error


@pytest.mark.long
def test_the_classifier_of_mnist(real_data, monkeypatch):
    """A tenth of the training that is usual, and still 98 %; benchmarks/judge.py prints the whole."""
    monkeypatch.setenv("FROMNOISE_DATA", str(real_data))
    monkeypatch.setattr(convnet, "_VIEWS", 30_000)
    assert extractors.classifier(load("mnist"), compute=CPU).accuracy >= 0.98


# ---- without labels


def test_views_keep_what_they_must():
    """Two views of an image differ, but are of its range and its brightness; a flat image stays as it is."""
    images = torch.randint(0, 256, (16, 3, 9, 14), dtype=torch.uint8)
    one, other = simclr.view(images), simclr.view(images)
    assert one.shape == images.shape and one.dtype == torch.float32 and not torch.equal(one, other)
    assert float(one.min()) >= -1 and float(one.max()) <= 1
    flat = torch.full((4, 1, 8, 8), 51, dtype=torch.uint8)
    torch.testing.assert_close(simclr.view(flat), torch.full((4, 1, 8, 8), 51 / 127.5 - 1), atol=1e-6, rtol=0)


def test_the_contrast_by_hand():
    """Equation 1 of Chen et al. written out, pair after pair."""
    told = torch.randn(10, 4, dtype=torch.float64)
    z = told / told.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(10):
        likeness = {k: math.exp(float(z[i] @ z[k]) / 0.2) for k in range(10) if k != i}
        total -= math.log(likeness[(i + 5) % 10] / sum(likeness.values()))
    assert float(simclr.contrast(told)) == pytest.approx(total / 10, rel=1e-9)


def test_self_supervised_features_are_learned_and_kept(striped, monkeypatch):
    """Without labels; trained once, read the second time to the bit, and apart from the classifier's file."""
    bare = Data(striped.train, striped.held_out, None, striped.shape, striped.fingerprint, 0)
    monkeypatch.setattr(convnet, "_EPOCHS", 8)
    steps, lines = [], []
    first = extractors.self_supervised(
        bare, compute=CPU, log=lines.append, on_step=lambda done, total: steps.append(total)
    )
    assert first.mark > 0.1 and f"{first.mark:.1%}" in lines[0]  # 1/80 by chance
    assert len(steps) == steps[0]
    again = extractors.self_supervised(bare, compute=CPU, on_step=lambda done, total: pytest.fail("trained again"))
    images = striped.held_out.get(torch.arange(80))
    assert torch.equal(first.of(images), again.of(images)) and again.mark == first.mark
    assert first.of(images).shape == (80, first.size) and first.see(images).probabilities is None
    assert select.choose(None, bare, compute=CPU).name == "self-supervised"


@pytest.mark.slow
def test_self_supervised_features_rank_what_is_worse(monkeypatch):
    """Blur, noise, tint and missing digits, more and more; and a Gaussian of the digits' own moments, unlike pixels."""
    data = load("digits", holdout=0.34, log=lambda line: None)
    bare = Data(data.train, data.held_out, None, data.shape, data.fingerprint, 0)
    own = extractors.self_supervised(bare, compute=CPU)
    x, labels = data.held_out.get(torch.arange(len(data.held_out))).double(), data.held_out.labels
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    soft = F.avg_pool2d(F.pad(x, (1,) * 4, mode="replicate"), 3, 1)
    flat = x.flatten(1)
    values, axes = torch.linalg.eigh(torch.cov(flat.T))
    z = torch.randn(flat.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = (flat.mean(0) + (z * values.clamp(min=0).sqrt()) @ axes.T).view_as(x)
    courses = {
        "blur": [x, 0.7 * x + 0.3 * soft, 0.4 * x + 0.6 * soft, soft],
        "noise": [x, x + 16 * noise, x + 32 * noise, x + 64 * noise],
        "tint": [x, x + 20, x + 40, x + 80],
        "missing": [x, x[labels > 1], x[labels > 3], x[labels > 5]],
        "Gaussian": [x, drawn],
    }
    train = data.train.get(torch.arange(len(data.train)))
    apart = {}
    for space in (own, extractors.pixels(bare)):
        real = frechet.Moments.of(space.of(train))
        for fault, samples in courses.items():
            seen = [space.of(s.round().clamp(0, 255).to(torch.uint8)) for s in samples]
            found = [frechet.frechet_from(frechet.split(v), real) for v in seen]
            if space is own:
                assert all(a.value < b.value for a, b in zip(found, found[1:], strict=False)), fault
            apart[space.name, fault] = (found[-1].value - found[0].value) / math.hypot(found[0].error, found[-1].error)
    assert apart["self-supervised", "Gaussian"] > apart["pixels", "Gaussian"] > 0
