"""Clusters in place of labels: known again, and dealt out by their shares."""

from __future__ import annotations

import torch

from fromnoise.data.pseudo_labels import PseudoLabels


def test_shares_and_nearest():
    """Of 10 dark, 30 grey and 60 bright images each is known again, and the shares are theirs."""
    images = torch.tensor([-0.8, 0.0, 0.8]).repeat_interleave(torch.tensor([10, 30, 60]))[:, None, None, None]
    images = images.expand(-1, 1, 8, 8) + 0.02 * torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pseudo_labels = PseudoLabels(5, (1, 8, 8))
    pseudo_labels.settle(torch.tensor([[0.8], [-0.8], [0.1]]).expand(3, 64), pseudo_labels.small(images))
    assert torch.equal(pseudo_labels.of(images), torch.tensor([1, 2, 0]).repeat_interleave(torch.tensor([10, 30, 60])))
    assert torch.allclose(pseudo_labels.share, torch.tensor([0.6, 0.1, 0.3, 0, 0]))
    assert pseudo_labels.deal(0, torch.arange(1000)).max() == 2


def test_they_are_dealt_by_their_shares():
    """Any run of them within four of its shares, where draws at random would stray by tens; of a number alone."""
    pseudo_labels = PseudoLabels(3, (1, 8, 8))
    pseudo_labels.share.copy_(torch.tensor([0.2, 0.5, 0.3]))
    ids = torch.arange(10_000)
    default_labels = pseudo_labels.deal(7, ids)
    for first, last in ((0, 10_000), (0, 100), (17, 1041), (5000, 9096)):
        found = torch.bincount(default_labels[first:last], minlength=3)
        assert ((found - pseudo_labels.share * (last - first)).abs() < 4).all()
    assert torch.equal(default_labels[50:60], pseudo_labels.deal(7, ids[50:60]))
    assert not torch.equal(default_labels, pseudo_labels.deal(8, ids))


def test_each_is_dealt_by_the_shares_over_the_seeds():
    """A sample's own cluster, within four deviations; also of a number that no float could hold."""
    pseudo_labels = PseudoLabels(3, (1, 8, 8))
    pseudo_labels.share.copy_(torch.tensor([0.2, 0.5, 0.3]))
    for number in (3, 2**60 + 1):
        default_labels = torch.cat([pseudo_labels.deal(seed, torch.tensor([number])) for seed in range(1000)])
        found = torch.bincount(default_labels, minlength=3) / 1000
        assert (
            (found - pseudo_labels.share).abs() < 4 * (pseudo_labels.share * (1 - pseudo_labels.share) / 1000).sqrt()
        ).all()


def test_copies_are_small():
    """At most 16 pixels a side, means of whole squares; odd sides and colour too."""
    x = torch.randn(2, 3, 50, 33)
    pseudo_labels = PseudoLabels(2, (3, 50, 33))
    small = pseudo_labels.small(x)
    assert small.shape == (2, 3 * 13 * 9) and pseudo_labels.place.shape == (2, 3 * 13 * 9)
    assert torch.allclose(small[:, 0], x[:, 0, :4, :4].mean((1, 2)), atol=1e-6)
    last = x[:, 2, 48:, 32:].mean((1, 2))
    assert torch.allclose(small[:, -1], last, atol=1e-6)
