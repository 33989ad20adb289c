"""A few known labels improve the start of a clustering."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from fromnoise.clustering.calibration import Reliability
from fromnoise.clustering.graph import prepare_features
from fromnoise.clustering.init import InitialClusters, smoothed_one_hot
from fromnoise.clustering.semi_supervised import spread_given_labels
from fromnoise.clustering.spectral import spectral_clusters
from fromnoise.utils.kmeans import kmeans


@lru_cache
def digits():
    """Pixels of digits, k-means clusters of them, and their classes."""
    found: Any = load_digits()
    pixels = torch.from_numpy(found.data).float()
    return InitialClusters(smoothed_one_hot(kmeans(pixels, 10, 0).labels, 10), pixels), torch.from_numpy(found.target)


def some(labels, each: int, seed: int = 0, classes: int = 10):
    """The labels of a few random images of each class, and -1 for all others."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.full((len(labels),), -1)
    for k in range(classes):
        members = (labels == k).nonzero().flatten()
        given[members[torch.randperm(len(members), generator=generator)[:each]]] = k
    return given


def accuracy(q, labels, given):
    """Of the images without given labels."""
    return float((q.argmax(1) == labels)[given < 0].double().mean())


@pytest.mark.parametrize(("each", "least"), [(1, 0.85), (10, 0.95), (25, 0.97)])
def test_labels_help(each, least):
    """More of them more, beyond what renumbering gives; the probabilities are near the accuracy."""
    initial, labels = digits()
    given = some(labels, each)
    renumbered = accuracy(spread_given_labels(InitialClusters(initial.q), given), labels, given)
    q = spread_given_labels(initial, given)
    found = accuracy(q, labels, given)
    assert found > least and found > renumbered + 0.05
    assert torch.allclose(q.sum(1), torch.ones(len(q), dtype=torch.float64))
    if each > 1:
        unknown = given < 0
        assert Reliability.measure(q.amax(1)[unknown], (q.argmax(1) == labels)[unknown]).ece < 0.06


def test_clusters_without_labels_keep_their_images():
    """With labels of 7 of 10 classes, the images of the other classes stay in the other clusters."""
    initial, labels = digits()
    assert initial.features is not None
    points = prepare_features(initial.features)
    initial, given = InitialClusters(spectral_clusters(points, 10, 0), points), some(labels, 10, classes=7)
    q = spread_given_labels(initial, given)
    other = (labels >= 7) & (given < 0)
    assert float((q.argmax(1) >= 7)[other].double().mean()) > 0.75
    assert accuracy(q[labels < 7], labels[labels < 7], given[labels < 7]) > 0.9


def test_no_labels_change_nothing():
    """Nor does the order of the folds depend on anything but the seed."""
    initial, labels = digits()
    assert torch.equal(spread_given_labels(initial, torch.full((len(labels),), -1)), initial.q)
    given = some(labels, 3)
    assert torch.equal(spread_given_labels(initial, given, 1), spread_given_labels(initial, given, 1))
