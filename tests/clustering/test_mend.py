"""Moves of whole clusters: an empty one comes back, one that is two is cut, and nothing else is touched."""

from __future__ import annotations

import torch

from fromnoise.clustering.split_merge import Responsibilities, distances, exchange, revive
from fromnoise.data import MemoryImages

SIZES = {"disc": 60, "bars": 60, "left": 25, "right": 20}


def kinds():
    """Images of four kinds, noisy, and the kind of each: 0 disc, 1 bars, 2 and 3 nearly alike."""
    make = torch.Generator().manual_seed(0)
    places = torch.arange(8)
    disc = ((places[:, None] - 3.5) ** 2 + (places[None, :] - 3.5) ** 2 < 8) * 200.0
    bars = ((places[:, None] % 2) == 0).expand(8, 8) * 200.0
    left = (places[None, :] < 4).expand(8, 8) * 200.0
    means = torch.stack([disc, bars, left, left * 0.9])
    which = torch.arange(4).repeat_interleave(torch.tensor(list(SIZES.values())))
    images = means[which] + 20 * torch.randn(len(which), 8, 8, generator=make)
    return MemoryImages(images.clamp(0, 255).byte()[:, None]), which


def believed_in(clusters, count=4):
    """Sure of these clusters, nearly."""
    q = torch.full((len(clusters), count), 0.01, dtype=torch.float64)
    return q.scatter(1, clusters[:, None], 1 - 0.01 * (count - 1))


def farther(clusters, near, count=4):
    """Nats: 0 by the own cluster, 1 by the one that is near to it, 50 by others."""
    nats = torch.full((len(clusters), count), 50.0, dtype=torch.float64)
    for a, b in near:
        nats[clusters == a, b] = nats[clusters == b, a] = 1.0
    return nats.scatter(1, clusters[:, None], 0.0)


def test_two_in_one_are_parted():
    """Disc and bars in one cluster, left in two: the two are joined, and the one is cut where it should be."""
    images, kind = kinds()
    clusters = torch.tensor([0, 0, 2, 3])[kind]
    q = believed_in(clusters)
    belief = Responsibilities(q, -0.5 * q.log())
    moved = exchange(belief, farther(clusters, [(2, 3)]), images, 0.75, 0.5, set(), 0)
    assert moved == ((2, 3, 0),)
    now = belief.q.argmax(1)
    assert len(set(now[kind == 0].tolist())) == 1 and len(set(now[kind == 1].tolist())) == 1
    assert {int(now[0]), int(now[60])} == {0, 3} and now[kind >= 2].eq(2).all()
    assert torch.allclose(belief.q.sum(1), torch.ones(len(q), dtype=torch.float64))
    # what was first seen tells the halves apart no more, and joins the joined: their mean by shares
    assert torch.equal(belief.seen[:, 3], belief.seen[:, 0])
    shares = q[:, 2:].mean(0) / q[:, 2:].mean(0).sum()
    assert torch.allclose((-belief.seen[:, 2] / 0.5).exp(), q[:, 2:] @ shares)


def test_what_is_even_stays():
    """Nothing is exchanged when the two are not smaller than the largest, are not near, stay, or the share is 0."""
    images, kind = kinds()
    mixed = torch.tensor([0, 0, 2, 3])[kind]
    for clusters, near, share, fixed in (
        (kind, [(2, 3)], 0.5, set()),  # 45 of 60
        (mixed, [(1, 3)], 0.75, set()),  # the nearest pair is an empty one
        (mixed, [(2, 3)], 0.75, {2}),
        (mixed, [(2, 3)], 0.75, {0}),
        (mixed, [(2, 3)], 0.0, set()),
    ):
        belief = Responsibilities(believed_in(clusters), torch.zeros(len(clusters), 4, dtype=torch.float64))
        before = belief.q.clone()
        nats = farther(clusters, near)
        if near == [(1, 3)]:
            nats[:] = 50.0 * (torch.arange(4)[None, :] != clusters[:, None])
            nats[mixed == 0] *= 0.1  # the large one is nearer to each than they are to each other
        assert exchange(belief, nats, images, share, 0.5, fixed, 0) == () and torch.equal(belief.q, before)


def test_distances_are_means_over_both():
    """By hand, with an empty cluster."""
    nats = torch.tensor([[0.0, 2.0, 9.0], [0.0, 4.0, 9.0], [6.0, 0.0, 9.0]], dtype=torch.float64)
    found = distances(nats, torch.tensor([0, 0, 1]), torch.tensor([2, 1, 0]))
    assert found[0, 1] == found[1, 0] == 4
    assert found[:, 2].isinf().all() and found.diagonal().isinf().all()


def test_an_emptied_cluster_comes_back():
    """It takes a part of the largest; not if it may stay empty."""
    images, kind = kinds()
    clusters = torch.tensor([0, 0, 2, 2])[kind]
    belief = Responsibilities(believed_in(clusters, 3), torch.zeros(len(kind), 3, dtype=torch.float64))
    before = belief.q.clone()
    assert revive(belief, images, 0.0, 0) == () and torch.equal(belief.q, before)
    assert revive(belief, images, 0.1, 0) == (1,)
    sizes = torch.bincount(belief.q.argmax(1), minlength=3)
    assert sizes[1] > 0 and sizes[2] == 45 and sizes.sum() == len(kind)
