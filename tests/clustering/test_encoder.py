"""What the encoder maximises, its views, and that it can sort what is easy."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from fromnoise.clustering.encoder import Encoder, encode, mutual_information, random_affine, train
from fromnoise.clustering.scores import Scores
from fromnoise.data import MemoryImages
from fromnoise.utils.device import select_device


def test_information_of_sure_clusters_is_scikit_learns():
    """Of two symmetric labellings; each head for itself."""
    a = torch.randint(5, (4000,))
    b = torch.where(torch.rand(4000) < 0.7, a, torch.randint(5, (4000,)))
    first, second = torch.cat([a, b]), torch.cat([b, a])  # the joint is made symmetric
    one, other = (torch.nn.functional.one_hot(v, 5).double()[:, None] for v in (first, second))
    told = mutual_information(one.repeat(1, 2, 1), other.repeat(1, 2, 1))
    assert told.tolist() == pytest.approx([mutual_info_score(first, second)] * 2, abs=1e-5)


def test_information_at_its_ends():
    """Log K for views that agree on even clusters, 0 where all are one cluster, or nothing is known."""
    even = torch.eye(6).repeat(10, 1)[:, None]
    assert float(mutual_information(even, even)) == pytest.approx(math.log(6), abs=1e-5)
    for said in (even[:1].repeat(60, 1, 1), torch.full((60, 1, 6), 1 / 6)):
        assert float(mutual_information(said, said)) == pytest.approx(0, abs=1e-5)


def test_views_move_a_little():
    """Nothing at strength 0; otherwise the centre of mass stays within what is allowed."""
    x = torch.full((32, 1, 28, 28), -1.0)
    x[:, :, 12:16, 12:16] = 1
    assert torch.allclose(random_affine(x, 0.0), x, atol=1e-5)
    shifted = (random_affine(x, 1.0) + 1) / 2
    place = torch.arange(28.0) - 13.5
    weight = shifted.sum((1, 2, 3))
    right = (shifted.sum((1, 2)) * place).sum(1) / weight
    assert 0.3 < float(right.abs().max()) <= 28 * 0.07 / 0.6 + 1 and float(right.std()) > 0.3


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 25), (1, 3, 1)])
def test_any_shape(shape):
    """Probabilities of each head, and features of one size."""
    net = Encoder(shape, 7)
    features, coarse, finer = net(torch.randn(4, *shape))
    assert features.shape == (4, 128) and coarse.shape[2] == 7 and finer.shape[2] == 35
    assert torch.allclose(coarse.sum(-1), torch.ones(coarse.shape[:2]))


@pytest.mark.slow
def test_learns_easy_shapes_the_same_way_twice():
    """Bars across, bars down and spots, in noise: sorted, and bit for bit again."""
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
    assert Scores.of(found[0].argmax(1), labels).accuracy > 0.95
