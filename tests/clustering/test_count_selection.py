"""The number of clusters of features whose number is known."""

from __future__ import annotations

import pytest
import torch

from fromnoise.clustering.count_selection import GUESS, select_by_features
from fromnoise.clustering.resampling import half_partitions
from fromnoise.clustering.scores import ClusterScores
from fromnoise.utils.errors import UserError


def mixture(clusters: int, distance: float, uneven: bool, points: int = 500, seed: int = 0):
    """Points of unit Gaussians in 16 dimensions whose means are about ``distance`` apart, and their components."""
    generator = torch.Generator().manual_seed(seed)
    weights = 5.0 ** (-torch.arange(clusters) / (clusters - 1)) if uneven else torch.ones(clusters)
    means = distance / 32**0.5 * torch.randn(clusters, 16, generator=generator)
    labels = torch.multinomial(weights, points, replacement=True, generator=generator)
    return means[labels] + torch.randn(points, 16, generator=generator), labels


@pytest.mark.parametrize(("clusters", "uneven"), [(3, False), (5, True), (6, False)])
def test_separate_clusters_are_counted(clusters, uneven):
    """Evenly populated or not, by a clear eigengap."""
    found = select_by_features(mixture(clusters, 8, uneven)[0], range(2, 9), 0)
    assert found.count == clusters and found.criterion == "eigengap"
    assert [s.count for s in found.scores] == list(range(2, 9)) and "<-" in found.table()[clusters - 1]
    assert found.json()["scores"][clusters - 2]["stability"] > 0.95


def test_overlapping_clusters_are_counted_by_a_clear_eigengap():
    """Although the clusters of no number are found again in both halves."""
    found = select_by_features(mixture(5, 4.5, False, 700)[0], range(2, 9), 0)
    assert found.criterion == "eigengap" and found.count == 5
    assert max(s.stability for s in found.scores) < 0.95


def test_noise_is_no_clusters():
    """The number is called a guess."""
    found = select_by_features(torch.randn(400, 16, generator=torch.Generator().manual_seed(0)), range(2, 9), 0)
    assert found.criterion == GUESS and "no number of clusters stands out" in found.table()[-1]


def test_too_few_points():
    """For the largest number."""
    with pytest.raises(UserError, match="20 images are too few.*8 clusters"):
        select_by_features(torch.randn(20, 3), range(2, 9), 0)


def test_halves_cluster_all_points():
    """Each of them alone, and in its own numbering."""
    points, labels = mixture(4, 8, False)
    found = half_partitions(points, [2, 4], 0, splits=2)
    assert found.shape == (2, 2, 2, 500)
    for partition in found[:, :, 1].flatten(0, 1):
        assert ClusterScores.from_labels(partition, labels).accuracy > 0.98
    assert len(found[:, :, 1].flatten(0, 1).unique(dim=0)) > 1
    with pytest.raises(ValueError, match="half of 6 points"):
        half_partitions(points[:6], [4], 0, 1)
