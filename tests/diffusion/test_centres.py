"""Clusters in place of labels: found, known again, and dealt out by their shares."""

from __future__ import annotations

import torch

from fromnoise.diffusion.centres import EACH, Centres


def blobs(sizes, side=8):
    """Images around as many far levels of grey as there are sizes."""
    levels = torch.linspace(-0.8, 0.8, len(sizes)).repeat_interleave(torch.tensor(sizes))
    noise = 0.02 * torch.randn(len(levels), 1, side, side, generator=torch.Generator().manual_seed(0))
    return levels[:, None, None, None] + noise


def test_they_find_what_lies_apart():
    """Three groups of known sizes: each is one cluster, of its share."""
    sizes = [100, 300, 600]
    images = blobs(sizes)
    centres = Centres(3, (1, 8, 8))
    assert centres.find(centres.small(images), seed=4) == 3
    which = centres.of(images)
    assert [len(part.unique()) for part in which.split(sizes)] == [1, 1, 1] and len(which.unique()) == 3
    assert torch.allclose(centres.share.sort().values, torch.tensor([0.1, 0.3, 0.6]))


def test_few_images_make_few_clusters():
    """Those that are not found are nobody's and are not dealt out."""
    images = blobs([EACH, EACH])
    centres = Centres(5, (1, 8, 8))
    assert centres.find(centres.small(images), seed=0) == 2
    assert centres.of(images).max() == 1 and centres.share[2:].sum() == 0
    assert centres.deal(0, torch.arange(1000)).max() == 1
    assert Centres(5, (1, 8, 8)).find(centres.small(images[:30]), seed=0) == 1


def test_they_are_dealt_by_their_shares():
    """Within four deviations of the shares; each of its number alone."""
    centres = Centres(3, (1, 8, 8))
    centres.share.copy_(torch.tensor([0.2, 0.5, 0.3]))
    ids = torch.arange(10_000)
    dealt = centres.deal(7, ids)
    found = torch.bincount(dealt, minlength=3) / len(ids)
    assert ((found - centres.share).abs() < 4 * (centres.share * (1 - centres.share) / len(ids)).sqrt()).all()
    assert torch.equal(dealt[50:60], centres.deal(7, ids[50:60]))
    assert not torch.equal(dealt, centres.deal(8, ids))


def test_copies_are_small():
    """At most 16 pixels a side, means of whole squares; odd sides and colour too."""
    x = torch.randn(2, 3, 50, 33)
    centres = Centres(2, (3, 50, 33))
    small = centres.small(x)
    assert small.shape == (2, 3 * 13 * 9) and centres.place.shape == (2, 3 * 13 * 9)
    assert torch.allclose(small[:, 0], x[:, 0, :4, :4].mean((1, 2)), atol=1e-6)
    last = x[:, 2, 48:, 32:].mean((1, 2))
    assert torch.allclose(small[:, -1], last, atol=1e-6)
