"""The normalized cut against its definition, its descent, and the partition that is chosen by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fromnoise.clustering.graph import NeighbourGraph
from fromnoise.clustering.normalized_cut import NormalizedCut
from fromnoise.clustering.spectral import spectral_embedding, spectral_partition
from fromnoise.utils.kmeans import kmeans


def blobs(count: int, dimensions: int, points: int, distance: float, seed: int) -> torch.Tensor:
    """Points around random centers, whose clusters overlap."""
    generator = torch.Generator().manual_seed(seed)
    centers = distance * torch.randn(count, dimensions, generator=generator)
    return centers.repeat_interleave(points, 0) + torch.randn(count * points, dimensions, generator=generator)


def dense_cut(graph: NeighbourGraph, labels: np.ndarray, clusters: int) -> float:
    """Cut by volume, summed over the clusters, of the regularized affinity."""
    affinity = graph.affinity.toarray()
    affinity = affinity + 0.1 * affinity.sum(1).mean() / len(affinity)
    total = 0.0
    for c in range(clusters):
        inside = labels == c
        total += affinity[inside][:, ~inside].sum() / affinity[inside].sum()
    return total


@pytest.mark.parametrize("clusters", [2, 5])
def test_the_value_is_that_of_the_definition(clusters: int):
    """For random partitions, by a dense matrix."""
    graph = NeighbourGraph.from_points(blobs(4, 3, 30, 2.0, 0), 8)
    labels = torch.randint(clusters, (120,), generator=torch.Generator().manual_seed(clusters))
    assert NormalizedCut(graph.affinity, clusters).of(labels) == pytest.approx(
        dense_cut(graph, labels.numpy(), clusters)
    )


def test_an_empty_cluster_is_cut_from_everything():
    """It has no edges, and the cut 1."""
    graph = NeighbourGraph.from_points(blobs(2, 2, 20, 3.0, 1), 6)
    labels = torch.arange(40) // 20
    assert NormalizedCut(graph.affinity, 3).of(labels) == pytest.approx(NormalizedCut(graph.affinity, 2).of(labels) + 1)


@pytest.mark.parametrize("seed", range(3))
def test_descent_ends_where_no_single_move_lowers_the_cut(seed: int):
    """From random partitions it falls far, and all moves of one point are tried by the definition."""
    graph = NeighbourGraph.from_points(blobs(3, 2, 25, 2.0, seed), 8)
    start = torch.randint(3, (75,), generator=torch.Generator().manual_seed(seed))
    cut = NormalizedCut(graph.affinity, 3)
    end = cut.descend(start)
    least = cut.of(end)
    assert least < 0.6 * cut.of(start)
    for point in range(75):
        for target in range(3):
            moved = end.numpy().copy()
            moved[point] = target
            if (np.bincount(moved, minlength=3) > 0).all():
                assert dense_cut(graph, moved, 3) > least - 1e-6


def test_a_partition_that_is_optimal_stays():
    """Of two separate groups no point moves, and none of a single cluster."""
    graph = NeighbourGraph.from_points(torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]]), 2)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert torch.equal(NormalizedCut(graph.affinity, 2).descend(labels), labels)
    assert torch.equal(NormalizedCut(graph.affinity, 1).descend(0 * labels), 0 * labels)


def test_the_chosen_partition_is_cut_less_than_that_of_the_best_k_means():
    """Overlapping groups of several densities: what k-means fits best is not what cuts least."""
    better = 0
    for seed in range(4):
        graph = NeighbourGraph.from_points(blobs(9, 3, 40, 1.6, seed), 10)
        embedding = spectral_embedding(*graph.leading_eigenvectors(14, seed), 9, 10.0)
        cut = NormalizedCut(graph.wider, 9)
        best_fit, chosen = (
            cut.of(kmeans(embedding, 9, seed, 20).labels),
            cut.of(spectral_partition(graph, 9, seed, True)),
        )
        assert chosen <= best_fit
        better += chosen < 0.98 * best_fit
    assert better


def test_a_group_that_is_closed_by_chance_is_no_cluster():
    """Of two overlapping groups, and 14 points that are joined to each other alone, the two are found."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(400, 2, generator=generator)
    points[:200, 0] += 3
    group = torch.tensor([[1.5, 40.0]]) + 0.1 * torch.randn(14, 2, generator=generator)
    graph = NeighbourGraph.from_points(torch.cat([points, group]), 10)
    alone = torch.cat([torch.zeros(400, dtype=torch.int64), torch.ones(14, dtype=torch.int64)])
    labels = spectral_partition(graph, 2, 0, by_cut=True)
    assert NormalizedCut(graph.wider, 2).of(alone) < NormalizedCut(graph.wider, 2).of(labels)
    assert float((labels[:200] == labels[0]).double().mean()) > 0.9
    assert float((labels[200:400] != labels[0]).double().mean()) > 0.9


def test_many_points_are_cut_and_few_are_fitted():
    """From 4,000 points on no single move lowers the cut; of fewer points k-means leaves such moves."""
    for count, descended in ((3990, False), (4000, True)):
        graph = NeighbourGraph.from_points(blobs(10, 3, count // 10, 1.6, 0), 10)
        labels = spectral_partition(graph, 10, 0)
        assert torch.equal(NormalizedCut(graph.affinity, 10).descend(labels), labels) is descended
