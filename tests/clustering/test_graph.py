"""Graphs of nearest neighbours: spectral clusters of shapes that k-means cannot find, and propagation of labels."""

from __future__ import annotations

import numpy as np
import torch

from fromnoise.clustering.graph import NeighbourGraph, label_seeds, prepare_features, propagate
from fromnoise.clustering.scores import ClusterScores
from fromnoise.clustering.spectral import spectral_clusters, spectral_embedding, spectral_partition
from fromnoise.utils.kmeans import kmeans


def moons(points: int = 400, seed: int = 0):
    """Two interleaved half circles with noise, and the one of each point."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.pi * torch.rand(points, generator=generator)
    labels = torch.arange(points) % 2
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    moon = torch.where(labels[:, None] == 0, upper, torch.tensor([1.0, 0.5]) - upper)
    return moon + 0.07 * torch.randn(points, 2, generator=generator), labels


def test_spectral_clusters_find_moons():
    """K-means cannot: it cuts both of them."""
    points, labels = moons()
    q = spectral_clusters(points, 2, 0)
    assert q.dtype == torch.float64 and torch.allclose(q.sum(1), torch.ones(len(points), dtype=torch.float64))
    assert ClusterScores.from_labels(q.argmax(1), labels).accuracy == 1
    assert ClusterScores.from_labels(kmeans(points, 2, 0).labels, labels).accuracy < 0.9
    assert torch.equal(q, spectral_clusters(points, 2, 0))


def test_points_between_two_clusters_are_uncertain():
    """Memberships are soft where the neighbourhood is mixed."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(500, 2, generator=generator)
    points[:250, 0] += 4
    q = spectral_clusters(points, 2, 0).amax(1)
    between = (points[:, 0] - 2).abs() < 0.4
    assert between.sum() > 5 and float(q[between].mean()) < 0.85 < 0.95 < float(q[(points[:, 0] - 2).abs() > 2].mean())


def test_outliers_take_no_cluster():
    """Nine far points that are joined to each other alone are no cluster of their own."""
    generator = torch.Generator().manual_seed(0)
    points, labels = torch.randn(400, 2, generator=generator), torch.arange(400) // 200
    points[:200, 0] += 4.5
    far = torch.tensor([[30.0, 0.0]]) + 0.01 * torch.randn(9, 2, generator=generator)
    q = spectral_clusters(torch.cat([points, far]), 2, 0, neighbours=8)[:400]
    assert ClusterScores.from_labels(q.argmax(1), labels).accuracy > 0.95


def test_the_embedding_is_the_leading_eigenvectors():
    """The Lanczos iteration agrees with a dense solver, up to a rotation of equal eigenvalues."""
    points, _ = moons(120)
    graph = NeighbourGraph.from_points(points, 10)
    dense = graph.affinity.toarray()
    assert np.allclose(dense, dense.T) and (dense.diagonal() == 0).all()
    added = 0.1 * dense.sum(1).mean()
    degree = dense.sum(1) + added
    values, vectors = np.linalg.eigh((dense + added / 120) / np.sqrt(degree[:, None] * degree))
    found, leading = graph.leading_eigenvectors(5, 0)
    assert np.allclose(found, values[::-1][:5], atol=1e-4)
    rows = vectors[:, ::-1][:, :5] * (values[::-1][:5] / values[::-1][2]).clip(0, 1) ** 10
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    embedding = spectral_embedding(found, leading, 3, 10.0).numpy()
    assert np.allclose(embedding @ embedding.T, rows @ rows.T, atol=1e-2)


def test_propagation_solves_its_equation():
    """(I - a S) F = (1 - a) Y, up to the rows' sums, by a dense solver."""
    points, labels = moons(100)
    graph = NeighbourGraph.from_points(points, 8)
    given = torch.full((100,), -1)
    given[:6] = labels[:6]
    seeds = label_seeds(given, 2)
    assert torch.allclose(seeds.sum(0), torch.ones(2, dtype=torch.float64))
    exact = np.linalg.solve(np.eye(100) - 0.9 * graph.normalized().toarray(), seeds.numpy())
    exact /= exact.sum(1, keepdims=True)
    assert np.allclose(propagate(graph, seeds, 0.9).numpy(), exact, atol=1e-3)


def test_two_labels_on_each_moon_are_enough():
    """They spread along the moons; a cluster without labels gets no point."""
    points, labels = moons(400)
    given = torch.full((400,), -1)
    for moon in (0, 1):
        given[(labels == moon).nonzero().flatten()[:2]] = moon
    q = propagate(NeighbourGraph.from_points(points), label_seeds(given, 3))
    assert float((q.argmax(1) == labels).double().mean()) > 0.99 and float(q[:, 2].max()) == 0


def test_copies_and_few_points():
    """Equal points have distance 0, and a graph may have fewer points than neighbours."""
    q = spectral_clusters(torch.tensor([[0.0], [0.0], [0.0], [5.0], [5.0], [5.1]]), 2, 0)
    assert q.isfinite().all() and q.argmax(1).unique_consecutive().numel() == 2
    assert prepare_features(torch.ones(4, 3)).isfinite().all()
    assert prepare_features(torch.randn(90, 80)).shape == (90, 64)


def test_a_small_group_joins_the_cluster_that_its_edges_lead_to():
    """Sixteen points at the end of a chain, too few for a centroid, join the cluster where the chain starts."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    blobs = centers.repeat_interleave(150, 0) + torch.randn(450, 2, generator=generator)
    chain = torch.stack([9 + torch.linspace(2.5, 8, 12), torch.zeros(12)], 1)
    group = torch.tensor([[17.5, 0.0]]) + 0.3 * torch.randn(16, 2, generator=generator)
    graph = NeighbourGraph.from_points(torch.cat([blobs, chain, group]), 8)
    for seed in range(5):
        labels = spectral_partition(graph, 3, seed)
        main = [int(labels[150 * i : 150 * (i + 1)].mode().values) for i in range(3)]
        assert len(set(main)) == 3
        assert float((labels[-16:] == main[1]).double().mean()) > 0.9
