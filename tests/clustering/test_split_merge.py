"""Split-and-merge moves: the right clusters are merged, split or reseeded, and nothing else changes."""

from __future__ import annotations

import torch

from fromnoise.clustering.split_merge import Responsibilities, cluster_distances, reseed_empty, split_and_merge
from fromnoise.data import MemoryImages

SIZES = {"disc": 60, "bars": 60, "left": 25, "right": 20}


def noisy_shapes():
    """Noisy images of four kinds, and the kind of each: 0 disc, 1 bars, 2 and 3 nearly the same."""
    make = torch.Generator().manual_seed(0)
    side = torch.arange(8)
    disc = ((side[:, None] - 3.5) ** 2 + (side[None, :] - 3.5) ** 2 < 8) * 200.0
    bars = ((side[:, None] % 2) == 0).expand(8, 8) * 200.0
    left = (side[None, :] < 4).expand(8, 8) * 200.0
    means = torch.stack([disc, bars, left, left * 0.9])
    kind = torch.arange(4).repeat_interleave(torch.tensor(list(SIZES.values())))
    images = means[kind] + 20 * torch.randn(len(kind), 8, 8, generator=make)
    return MemoryImages(images.clamp(0, 255).byte()[:, None]), kind


def nearly_one_hot(clusters, count=4):
    """Responsibilities of nearly 1 for these clusters."""
    q = torch.full((len(clusters), count), 0.01, dtype=torch.float64)
    return q.scatter(1, clusters[:, None], 1 - 0.01 * (count - 1))


def bounds_with_close_pairs(clusters, close, count=4):
    """L_c in nats: 0 for an image's own cluster, 1 for a close cluster, 50 for the others."""
    nats = torch.full((len(clusters), count), 50.0, dtype=torch.float64)
    for a, b in close:
        nats[clusters == a, b] = nats[clusters == b, a] = 1.0
    return nats.scatter(1, clusters[:, None], 0.0)


def test_a_mixed_cluster_is_split_and_two_close_ones_are_merged():
    """Disc and bars share a cluster, "left" has two: the two are merged, and the first is split between its kinds."""
    images, kind = noisy_shapes()
    clusters = torch.tensor([0, 0, 2, 3])[kind]
    q = nearly_one_hot(clusters)
    state = Responsibilities(q, -0.5 * q.log())
    moves = split_and_merge(state, bounds_with_close_pairs(clusters, [(2, 3)]), images, 0.75, 0.5, set(), 0)
    assert moves == ((2, 3, 0),)
    after = state.q.argmax(1)
    assert len(set(after[kind == 0].tolist())) == 1 and len(set(after[kind == 1].tolist())) == 1
    assert {int(after[0]), int(after[60])} == {0, 3} and after[kind >= 2].eq(2).all()
    assert torch.allclose(state.q.sum(1), torch.ones(len(q), dtype=torch.float64))
    # both parts of the split have the same encoder term; the merged cluster has the mean weighted by size
    assert torch.equal(state.encoder_nats[:, 3], state.encoder_nats[:, 0])
    sizes = q[:, 2:].mean(0) / q[:, 2:].mean(0).sum()
    assert torch.allclose((-state.encoder_nats[:, 2] / 0.5).exp(), q[:, 2:] @ sizes)


def test_no_move_without_its_conditions():
    """The two are not smaller than the threshold, not close, or fixed; the largest is fixed; the threshold is 0."""
    images, kind = noisy_shapes()
    mixed = torch.tensor([0, 0, 2, 3])[kind]
    for clusters, close, threshold, fixed in (
        (kind, [(2, 3)], 0.5, set()),  # 45 of 60
        (mixed, [(1, 3)], 0.75, set()),  # the closest pair has an empty cluster
        (mixed, [(2, 3)], 0.75, {2}),
        (mixed, [(2, 3)], 0.75, {0}),
        (mixed, [(2, 3)], 0.0, set()),
    ):
        state = Responsibilities(nearly_one_hot(clusters), torch.zeros(len(clusters), 4, dtype=torch.float64))
        before = state.q.clone()
        nats = bounds_with_close_pairs(clusters, close)
        if close == [(1, 3)]:
            nats[:] = 50.0 * (torch.arange(4)[None, :] != clusters[:, None])
            nats[mixed == 0] *= 0.1  # the largest is closer to each of them than they are to each other
        assert split_and_merge(state, nats, images, threshold, 0.5, fixed, 0) == ()
        assert torch.equal(state.q, before)


def test_cluster_distances_are_means_over_the_images_of_both():
    """By hand, with an empty cluster."""
    nats = torch.tensor([[0.0, 2.0, 9.0], [0.0, 4.0, 9.0], [6.0, 0.0, 9.0]], dtype=torch.float64)
    found = cluster_distances(nats, torch.tensor([0, 0, 1]), torch.tensor([2, 1, 0]))
    assert found[0, 1] == found[1, 0] == 4
    assert found[:, 2].isinf().all() and found.diagonal().isinf().all()


def test_an_empty_cluster_is_reseeded():
    """It takes a part of the largest cluster; not with min_weight 0."""
    images, kind = noisy_shapes()
    clusters = torch.tensor([0, 0, 2, 2])[kind]
    state = Responsibilities(nearly_one_hot(clusters, 3), torch.zeros(len(kind), 3, dtype=torch.float64))
    before = state.q.clone()
    assert reseed_empty(state, images, 0.0, set(), 0) == () and torch.equal(state.q, before)
    assert reseed_empty(state, images, 0.1, set(), 0) == (1,)
    sizes = torch.bincount(state.q.argmax(1), minlength=3)
    assert sizes[1] > 0 and sizes[2] == 45 and sizes.sum() == len(kind)


def test_clusters_with_given_labels_are_not_reseeded():
    """Neither an empty one is filled, nor does the largest one lose images."""
    images, kind = noisy_shapes()
    clusters = torch.tensor([0, 0, 2, 2])[kind]

    def reseeded(fixed):
        state = Responsibilities(nearly_one_hot(clusters, 3), torch.zeros(len(kind), 3, dtype=torch.float64))
        found = reseed_empty(state, images, 0.1, fixed, 0)
        return found, torch.bincount(state.q.argmax(1), minlength=3).tolist()

    sizes = torch.bincount(clusters, minlength=3).tolist()
    assert reseeded({1}) == ((), sizes)
    assert reseeded({0, 2}) == ((), sizes)
    donor = max((0, 2), key=lambda c: sizes[c])
    found, after = reseeded({donor})
    assert found == (1,) and after[donor] == sizes[donor] and after[2 - donor] < sizes[2 - donor]
