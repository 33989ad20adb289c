"""Temperatures and calibration errors against Bayes' rule, whose probabilities are right by definition."""

from __future__ import annotations

import pytest
import torch

from fromnoise.clustering.calibration import (
    Reliability,
    temperature_from_labels,
    temperature_from_repeats,
    temperature_of_mean,
    tempered,
)

EQUAL = torch.full((6,), 1 / 6, dtype=torch.float64)


def mixture(images: int = 4000, separation: float = 1.5, weights=EQUAL, seed: int = 0):
    """Log joint densities of a mixture of Gaussians, (N, Q), and the component of each point."""
    generator = torch.Generator().manual_seed(seed)
    means = separation * torch.randn(len(weights), 16, generator=generator, dtype=torch.float64) / 4 * 1.5
    labels = torch.multinomial(weights, images, replacement=True, generator=generator)
    points = means[labels] + torch.randn(images, 16, generator=generator, dtype=torch.float64)
    return weights.log() - torch.cdist(points, means).square() / 2, labels


def reliability(q, labels):
    """Of the most likely component, whose number is its class."""
    probability, clusters = q.max(1)
    return Reliability.measure(probability, clusters == labels)


def test_bayes_rule_is_calibrated():
    """Its error is that of chance, and twice the evidence is overconfident."""
    joint, labels = mixture()
    exact = reliability(torch.softmax(joint, 1), labels)
    assert exact.ece < 1.3 * exact.by_chance_95 and exact.by_chance < exact.by_chance_95 < 0.05
    assert sum(count for count, _, _ in exact.bins) == exact.images == 4000 and len(exact.bins) == 15
    assert reliability(torch.softmax(2 * joint, 1), labels).ece > 2 * exact.by_chance_95


def test_ece_by_hand():
    """Two bins of two images: |0.5 - 0.6| and |1 - 0.8|, weighted equally; fewer images than bins."""
    found = Reliability.measure(torch.tensor([0.9, 0.5, 0.7, 0.7]), torch.tensor([True, True, False, True]), bins=2)
    assert found.ece == pytest.approx((0.1 + 0.2) / 2)
    assert len(Reliability.measure(torch.tensor([0.9, 0.5]), torch.tensor([True, False])).bins) == 2
    with pytest.raises(ValueError, match="at least one image"):
        Reliability.measure(torch.empty(0), torch.empty(0, dtype=torch.bool))


def test_clusters_are_matched_with_classes():
    """The numbers of clusters are arbitrary."""
    q = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1, 2, 2]] * 0.9 + 0.1 / 3
    found = Reliability.of_clusters(q, q.argmax(1), torch.tensor([2, 2, 0, 0, 1, 1]))
    assert found.ece == pytest.approx(1 - 0.9 - 0.1 / 3)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_labels_find_the_temperature(factor):
    """Log densities times a factor have that factor as their temperature, with unequal weights too."""
    weights = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.05, 0.05], dtype=torch.float64)
    joint, labels = mixture(weights=weights)
    q = torch.softmax(factor * joint, 1)
    found = temperature_from_labels(q, labels)
    assert found == pytest.approx(factor, rel=0.06)
    assert torch.equal(tempered(q, found).argmax(1), q.argmax(1))
    assert torch.allclose(tempered(q, factor), torch.softmax(joint, 1), atol=1e-6)


def test_a_few_labels_do_not_make_probabilities_certain():
    """Ten labels that are all right: the mean probability stays below one."""
    q = torch.full((10, 4), 0.1, dtype=torch.float64)
    q[:, 0] = 0.7
    found = temperature_from_labels(q, torch.zeros(10, dtype=torch.int64))
    assert float(tempered(q, found)[0, 0]) == pytest.approx(10.5 / 11, abs=1e-3)
    assert temperature_of_mean(q, 0.7) == pytest.approx(1) and temperature_of_mean(q, 0.2) == pytest.approx(100)
    with pytest.raises(ValueError, match="at least one label"):
        temperature_from_labels(q[:0], torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_repeats_correct_the_noise_without_labels(noise):
    """The temperature is the one that the true components give, and the calibration error that of chance."""
    joint, labels = mixture(6000)
    generator = torch.Generator().manual_seed(7)
    noisy = [joint + noise * torch.randn(joint.shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    found = temperature_from_repeats(noisy)
    q = torch.softmax(noisy[0], 1)
    assert found == pytest.approx(temperature_from_labels(q, labels), rel=0.15)
    before, after = (reliability(tempered(q, t), labels) for t in (1.0, found))
    assert after.ece < 1.5 * after.by_chance_95 and (noise < 1 or before.ece > 2 * after.ece)


def test_repeats_do_not_sharpen():
    """Without noise all assessments agree, which says nothing about the probabilities: they stay."""
    joint, _ = mixture(500)
    assert temperature_from_repeats([joint] * 3) == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="three"):
        temperature_from_repeats([joint] * 2)
