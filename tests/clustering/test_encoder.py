"""The clustering encoder: its objective, its views, and that it separates easy clusters."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from fromnoise.clustering.encoder import Encoder, encode, mutual_information, random_affine, train
from fromnoise.clustering.scores import ClusterScores
from fromnoise.data import MemoryImages
from fromnoise.utils.device import select_device


def test_mutual_information_of_one_hot_clusters_equals_scikit_learn():
    """For two symmetrized labelings; each head separately."""
    a = torch.randint(5, (4000,))
    b = torch.where(torch.rand(4000) < 0.7, a, torch.randint(5, (4000,)))
    first, second = torch.cat([a, b]), torch.cat([b, a])  # makes the joint distribution symmetric
    p, q = (torch.nn.functional.one_hot(v, 5).double()[:, None] for v in (first, second))
    found = mutual_information(p.repeat(1, 2, 1), q.repeat(1, 2, 1))
    assert found.tolist() == pytest.approx([mutual_info_score(first, second)] * 2, abs=1e-5)


def test_mutual_information_limits():
    """Log K for identical even clusters; 0 if all images are in one cluster, or the probabilities are uniform."""
    even = torch.eye(6).repeat(10, 1)[:, None]
    assert float(mutual_information(even, even)) == pytest.approx(math.log(6), abs=1e-5)
    for p in (even[:1].repeat(60, 1, 1), torch.full((60, 1, 6), 1 / 6)):
        assert float(mutual_information(p, p)) == pytest.approx(0, abs=1e-5)


def test_random_affine_stays_within_its_range():
    """The identity at strength 0; otherwise the center of mass moves at most by the allowed shift."""
    x = torch.full((32, 1, 28, 28), -1.0)
    x[:, :, 12:16, 12:16] = 1
    assert torch.allclose(random_affine(x, 0.0), x, atol=1e-5)
    shifted = (random_affine(x, 1.0) + 1) / 2
    columns = torch.arange(28.0) - 13.5
    mass = shifted.sum((1, 2, 3))
    center = (shifted.sum((1, 2)) * columns).sum(1) / mass
    assert 0.3 < float(center.abs().max()) <= 28 * 0.07 / 0.6 + 1 and float(center.std()) > 0.3


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 25), (1, 3, 1)])
def test_any_image_shape(shape):
    """Probabilities of each head, and 128 features."""
    net = Encoder(shape, 7)
    features, coarse, finer = net(torch.randn(4, *shape))
    assert features.shape == (4, 128) and coarse.shape[2] == 7 and finer.shape[2] == 35
    assert torch.allclose(coarse.sum(-1), torch.ones(coarse.shape[:2]))


@pytest.mark.slow
def test_easy_shapes_are_clustered_reproducibly():
    """Horizontal bars, vertical bars and spots in noise; a second training is bit-identical."""
    labels = torch.arange(300) % 3
    x = torch.randint(0, 60, (300, 1, 12, 12), dtype=torch.uint8)
    x[labels == 0, :, 5:7, :] = 220
    x[labels == 1, :, :, 5:7] = 220
    x[labels == 2, :, 4:8, 4:8] = 220
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        net = Encoder((1, 12, 12), 3)
        assert len(list(train(net, MemoryImages(x), select_device("cpu", "fp32"), steps=40, batch=100))) == 40
        found.append(encode(net, MemoryImages(x), select_device("cpu", "fp32")).q)
    assert torch.equal(*found)
    assert ClusterScores.from_labels(found[0].argmax(1), labels).accuracy > 0.95
