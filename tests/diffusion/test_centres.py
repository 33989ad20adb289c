"""Clusters in place of labels: known again, and dealt out by their shares."""

from __future__ import annotations

import torch

from fromnoise.data.pseudo_labels import Centres


def test_shares_and_nearest():
    """Of 10 dark, 30 grey and 60 bright images each is known again, and the shares are theirs."""
    images = torch.tensor([-0.8, 0.0, 0.8]).repeat_interleave(torch.tensor([10, 30, 60]))[:, None, None, None]
    images = images.expand(-1, 1, 8, 8) + 0.02 * torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    centres = Centres(5, (1, 8, 8))
    centres.settle(torch.tensor([[0.8], [-0.8], [0.1]]).expand(3, 64), centres.small(images))
    assert torch.equal(centres.of(images), torch.tensor([1, 2, 0]).repeat_interleave(torch.tensor([10, 30, 60])))
    assert torch.allclose(centres.share, torch.tensor([0.6, 0.1, 0.3, 0, 0]))
    assert centres.deal(0, torch.arange(1000)).max() == 2


def test_they_are_dealt_by_their_shares():
    """Any run of them within four of its shares, where draws at random would stray by tens; of a number alone."""
    centres = Centres(3, (1, 8, 8))
    centres.share.copy_(torch.tensor([0.2, 0.5, 0.3]))
    ids = torch.arange(10_000)
    dealt = centres.deal(7, ids)
    for first, last in ((0, 10_000), (0, 100), (17, 1041), (5000, 9096)):
        found = torch.bincount(dealt[first:last], minlength=3)
        assert ((found - centres.share * (last - first)).abs() < 4).all()
    assert torch.equal(dealt[50:60], centres.deal(7, ids[50:60]))
    assert not torch.equal(dealt, centres.deal(8, ids))


def test_each_is_dealt_by_the_shares_over_the_seeds():
    """A sample's own cluster, within four deviations; also of a number that no float could hold."""
    centres = Centres(3, (1, 8, 8))
    centres.share.copy_(torch.tensor([0.2, 0.5, 0.3]))
    for number in (3, 2**60 + 1):
        dealt = torch.cat([centres.deal(seed, torch.tensor([number])) for seed in range(1000)])
        found = torch.bincount(dealt, minlength=3) / 1000
        assert ((found - centres.share).abs() < 4 * (centres.share * (1 - centres.share) / 1000).sqrt()).all()


def test_copies_are_small():
    """At most 16 pixels a side, means of whole squares; odd sides and colour too."""
    x = torch.randn(2, 3, 50, 33)
    centres = Centres(2, (3, 50, 33))
    small = centres.small(x)
    assert small.shape == (2, 3 * 13 * 9) and centres.place.shape == (2, 3 * 13 * 9)
    assert torch.allclose(small[:, 0], x[:, 0, :4, :4].mean((1, 2)), atol=1e-6)
    last = x[:, 2, 48:, 32:].mean((1, 2))
    assert torch.allclose(small[:, -1], last, atol=1e-6)
