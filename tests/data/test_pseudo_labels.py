"""Pseudo-labels: assignment to the nearest centroid, and stratified sampling of clusters."""

from __future__ import annotations

import torch

from fromnoise.data.pseudo_labels import PseudoLabels


def test_images_are_assigned_to_the_nearest_centroid():
    """10 dark, 30 grey and 60 bright images: each gets its own centroid, and the weights are their fractions."""
    brightness = torch.tensor([-0.8, 0.0, 0.8]).repeat_interleave(torch.tensor([10, 30, 60]))[:, None, None, None]
    noise = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = brightness.expand(-1, 1, 8, 8) + 0.02 * noise
    pseudo_labels = PseudoLabels(5, (1, 8, 8))
    pseudo_labels.fit(torch.tensor([[0.8], [-0.8], [0.1]]).expand(3, 64), pseudo_labels.downsample(images))
    expected = torch.tensor([1, 2, 0]).repeat_interleave(torch.tensor([10, 30, 60]))
    assert torch.equal(pseudo_labels.assign(images), expected)
    assert torch.allclose(pseudo_labels.weights, torch.tensor([0.6, 0.1, 0.3, 0, 0]))
    assert pseudo_labels.sample(0, torch.arange(1000)).max() == 2


def test_consecutive_samples_are_stratified():
    """Any run of samples has within four of n p(k) of each cluster (i.i.d. labels would vary by tens)."""
    pseudo_labels = PseudoLabels(3, (1, 8, 8))
    pseudo_labels.weights.copy_(torch.tensor([0.2, 0.5, 0.3]))
    ids = torch.arange(10_000)
    labels = pseudo_labels.sample(7, ids)
    for first, last in ((0, 10_000), (0, 100), (17, 1041), (5000, 9096)):
        counts = torch.bincount(labels[first:last], minlength=3)
        assert ((counts - pseudo_labels.weights * (last - first)).abs() < 4).all()
    assert torch.equal(labels[50:60], pseudo_labels.sample(7, ids[50:60]))
    assert not torch.equal(labels, pseudo_labels.sample(8, ids))


def test_one_sample_follows_the_weights_over_seeds():
    """Within four standard deviations; also for a number that float64 cannot represent."""
    pseudo_labels = PseudoLabels(3, (1, 8, 8))
    p = torch.tensor([0.2, 0.5, 0.3])
    pseudo_labels.weights.copy_(p)
    for number in (3, 2**60 + 1):
        labels = torch.cat([pseudo_labels.sample(seed, torch.tensor([number])) for seed in range(1000)])
        fractions = torch.bincount(labels, minlength=3) / 1000
        assert ((fractions - p).abs() < 4 * (p * (1 - p) / 1000).sqrt()).all()


def test_downsampled_images_have_at_most_16_pixels_a_side():
    """Pixels are averaged over whole squares; also at odd sides and in colour."""
    x = torch.randn(2, 3, 50, 33)
    pseudo_labels = PseudoLabels(2, (3, 50, 33))
    small = pseudo_labels.downsample(x)
    assert small.shape == (2, 3 * 13 * 9) and pseudo_labels.centroids.shape == (2, 3 * 13 * 9)
    assert torch.allclose(small[:, 0], x[:, 0, :4, :4].mean((1, 2)), atol=1e-6)
    last = x[:, 2, 48:, 32:].mean((1, 2))
    assert torch.allclose(small[:, -1], last, atol=1e-6)


def test_b2_iid_clusters_are_independent_and_follow_the_weights():
    """Their counts vary as multinomial ones do; a sample does not depend on the others.

    Version 0.1 had stratified pseudo-labels only: variances of 0.4 to 0.6 here, in place of 9 to 24.
    """
    labels = PseudoLabels(4, (1, 4, 4))
    labels.weights.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    counts = torch.stack([labels.sample(seed, torch.arange(100), False).bincount(minlength=4) for seed in range(400)])
    assert torch.allclose(counts.double().mean(0) / 100, labels.weights.double(), atol=0.01)
    variance = 100 * labels.weights.double() * (1 - labels.weights.double())
    assert torch.allclose(counts.double().var(0), variance, rtol=0.3)
    some = labels.sample(7, torch.arange(50, 60), False)
    assert torch.equal(some, labels.sample(7, torch.arange(100), False)[50:60])
