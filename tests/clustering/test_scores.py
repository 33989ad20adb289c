"""Agreement of clusters with classes: against all permutations, and what no renaming changes."""

from __future__ import annotations

import itertools

import pytest
import torch

from fromnoise.clustering.scores import Scores, majority, match


def test_accuracy_is_the_best_of_all_matchings():
    """Every one-to-one matching, tried."""
    labels = torch.randint(4, (200,))
    clusters = torch.where(torch.rand(200) < 0.6, (labels + 1) % 4, torch.randint(4, (200,)))
    best = max(
        float((torch.tensor(order)[clusters] == labels).double().mean()) for order in itertools.permutations(range(4))
    )
    assert Scores.of(clusters, labels).accuracy == pytest.approx(best)


def test_names_do_not_matter():
    """Renamed classes are a perfect sorting; another renaming changes no score."""
    labels = torch.arange(60) % 3
    perfect = Scores.of((labels + 2) % 3, labels)
    assert (perfect.accuracy, perfect.nmi, perfect.ari) == pytest.approx((1, 1, 1))
    clusters = torch.randint(3, (60,))
    renamed = torch.tensor([2, 0, 1])[clusters]
    assert Scores.of(clusters, labels).__dict__ == pytest.approx(Scores.of(renamed, labels).__dict__)


def test_more_clusters_than_classes():
    """One cluster a class is matched, the others are not right."""
    clusters, labels = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert match(clusters, labels).tolist() == [0, -1, 1]
    assert Scores.of(clusters, labels).accuracy == pytest.approx(5 / 6)
    assert majority(clusters, labels).tolist() == [0, 0, 1]
