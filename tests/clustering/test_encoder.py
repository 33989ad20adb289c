"""The clustering encoder: its views, and that it separates easy clusters."""

from __future__ import annotations

import pytest
import torch

from fromnoise.clustering import views
from fromnoise.clustering.encoder import SIZE, Encoder, encode, train, two_views
from fromnoise.clustering.graph import prepare_features
from fromnoise.clustering.init import within_budget
from fromnoise.clustering.scores import ClusterScores
from fromnoise.clustering.spectral import spectral_clusters
from fromnoise.config import ClusteringConfig
from fromnoise.data import MemoryImages
from fromnoise.utils.device import select_device


def test_warp_moves_the_center_of_mass_within_its_range():
    """By at most the allowed shift and the displacement, and differently for each image."""
    x = torch.full((32, 1, 28, 28), -1.0)
    x[:, :, 12:16, 12:16] = 1
    warped = (views.warp(x) + 1) / 2
    columns = torch.arange(28.0) - 13.5
    center = (warped.sum((1, 2)) * columns).sum(1) / warped.sum((1, 2, 3))
    assert 0.3 < float(center.abs().max()) < 28 * views._SHIFT / 0.7 + 4 * 28 * views._DISPLACEMENT
    assert float(center.std()) > 0.3


def test_adjust_keeps_black_and_the_order_of_brightnesses():
    """Zero stays zero, and a brighter pixel stays brighter; the images differ in how much."""
    x = torch.linspace(-1, 1, 11).repeat(200, 3, 1, 1)
    adjusted = views.adjust(x)
    assert torch.allclose(adjusted[..., 0], torch.tensor(-1.0), atol=0.3)
    assert bool((adjusted.diff(dim=-1) > 0).all())
    ratio = ((adjusted[..., -1] + 1) / 2).log()
    assert float(ratio.std()) == pytest.approx(views._CONTRAST, rel=0.2)


def test_erase_takes_a_square_from_half_of_the_images():
    """A third of each side, filled with the darkest value; other pixels are unchanged."""
    x = torch.rand(400, 2, 9, 12)
    erased = views.erase(x)
    changed = (erased != x).any(1).flatten(1).sum(1)
    assert set(changed.tolist()) <= {0, 8, 9} and 0.4 < float((changed > 0).double().mean()) < 0.6
    where = (erased != x).any(1)
    assert bool((erased.amax(1)[where] <= x.amin((1, 2, 3), keepdim=True).expand(-1, 1, 9, 12)[:, 0][where]).all())


def test_views_are_noised_by_at_most_the_largest_sigma():
    """Their variance around the image is below that of x_t with the largest sigma; a seed fixes them."""
    pixels = torch.full((64, 1, 16, 16), 255, dtype=torch.uint8)
    first = two_views(pixels, 3)
    assert torch.equal(first, two_views(pixels, 3)) and not torch.equal(first, two_views(pixels, 4))
    assert first.shape == (128, 1, 16, 16) and not torch.equal(first[:64], first[64:])
    deviation = torch.cat([x.diff(dim=-1).flatten() for x in first]).std() / 2**0.5
    assert 0.2 < float(deviation) < views._NOISE


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 25), (1, 3, 1)])
def test_any_image_shape(shape):
    """128 features, and an embedding that the views of this shape lead to."""
    net = Encoder(shape)
    features, embeddings = net(two_views(torch.randint(256, (2, *shape), dtype=torch.uint8), 0))
    assert features.shape == (4, SIZE) and embeddings.shape == (4, 64)
    assert bool(features.isfinite().all())


@pytest.mark.slow
def test_easy_shapes_are_clustered_reproducibly():
    """Horizontal bars, vertical bars and spots in noise; a second training is bit-identical."""
    labels = torch.arange(300) % 3
    x = torch.randint(0, 60, (300, 1, 12, 12), dtype=torch.uint8)
    x[labels == 0, :, 5:7, :] = 220
    x[labels == 1, :, :, 5:7] = 220
    x[labels == 2, :, 4:8, 4:8] = 220
    images, compute, found = MemoryImages(x), select_device("cpu", "fp32"), []
    for _ in range(2):
        torch.manual_seed(1)
        net = Encoder((1, 12, 12))
        assert len(list(train(net, images, compute, steps=40, batch=100))) == 40
        found.append(spectral_clusters(prepare_features(encode(net, images, compute)), 3, 0))
    assert torch.equal(*found)
    assert ClusterScores.from_labels(found[0].argmax(1), labels).accuracy > 0.95


def test_a_small_budget_shortens_the_encoder():
    """A hundredth of a minute affords fewer steps, an hour all of them, in 250 epochs; another start is not timed."""
    images, compute = MemoryImages(torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)), select_device("cpu", "fp32")
    config = ClusteringConfig(count=2, encoder_batch=32, encoder_steps=1500)
    assert 1 <= within_budget(config, 0.01, images, compute).encoder_steps < 200
    assert within_budget(config, 60, images, compute).encoder_steps == 2 * 250
    assert within_budget(config, None, MemoryImages(images.get(torch.arange(33))), compute).encoder_steps == 2 * 250
    assert within_budget(config.model_copy(update={"encoder_steps": 9}), 60, images, compute).encoder_steps == 9
    assert within_budget(config.model_copy(update={"init": "pca"}), 1e-9, images, compute).encoder_steps == 1500
