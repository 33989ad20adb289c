"""Agreement of clusters with classes: accuracy against all permutations, and invariance to renaming."""

from __future__ import annotations

import itertools

import pytest
import torch

from fromnoise.clustering.scores import ClusterScores, majority_classes, match_classes


def test_accuracy_is_the_best_of_all_matchings():
    """Every one-to-one matching is tried."""
    labels = torch.randint(4, (200,))
    clusters = torch.where(torch.rand(200) < 0.6, (labels + 1) % 4, torch.randint(4, (200,)))
    best = max(
        float((torch.tensor(order)[clusters] == labels).double().mean()) for order in itertools.permutations(range(4))
    )
    assert ClusterScores.from_labels(clusters, labels).accuracy == pytest.approx(best)


def test_scores_are_invariant_to_renaming():
    """Renamed classes score 1; renaming clusters changes no score."""
    labels = torch.arange(60) % 3
    perfect = ClusterScores.from_labels((labels + 2) % 3, labels)
    assert (perfect.accuracy, perfect.nmi, perfect.ari) == pytest.approx((1, 1, 1))
    clusters = torch.randint(3, (60,))
    renamed = torch.tensor([2, 0, 1])[clusters]
    scores, same = (ClusterScores.from_labels(c, labels).__dict__ for c in (clusters, renamed))
    assert scores == pytest.approx(same)


def test_more_clusters_than_classes():
    """One cluster for each class is matched; images of the others count as wrong."""
    clusters, labels = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert match_classes(clusters, labels).tolist() == [0, -1, 1]
    assert ClusterScores.from_labels(clusters, labels).accuracy == pytest.approx(5 / 6)
    assert majority_classes(clusters, labels).tolist() == [0, 0, 1]
