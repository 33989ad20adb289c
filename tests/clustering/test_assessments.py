"""Temperatures of a run: from halves of the features, from given labels, and the same at every call."""

from __future__ import annotations

import pytest
import torch
from test_em import IMAGES, make

from fromnoise.clustering.assessments import assessed_images, calibrate
from fromnoise.clustering.calibration import tempered


def confident(labels):
    """Responsibilities of almost 1 for clusters (N,)."""
    return torch.full((IMAGES, 3), 1e-6, dtype=torch.float64).scatter(1, labels[:, None], 1.0)


def after_one_e_step(given=None):
    """EM whose responsibilities an E-step of an untrained model has found: hardly other than the start."""
    em = make(given=given, q=confident(torch.arange(IMAGES) % 3), clustering_rounds=1, clustering_e_step_refine=2)
    em.run_e_step()
    return em


def test_the_mean_probability_is_the_reproduced_fraction():
    """Where it is below what the noise allows; numbers of clusters in the halves are arbitrary."""
    em = after_one_e_step()
    clusters = em.state.q.argmax(1)
    halves = torch.stack([(clusters + 1) % 3, clusters])
    halves[:, ::4] = (halves[:, ::4] + 1) % 3
    found = calibrate(em, halves)
    assert found.reproduced == pytest.approx(0.75, abs=0.02) and found.labels == 0 and found.repeated == IMAGES
    mean = float(tempered(em.state.q, found.temperature).amax(1).mean())
    assert mean == pytest.approx(found.reproduced, abs=1e-6) and "halves" in found.source
    assert found.model_temperature >= 1 and 0 <= found.agreement <= 1
    assert calibrate(em, halves) == found
    alone = calibrate(em)
    assert alone.reproduced is None and 1 <= alone.temperature <= found.temperature


def test_labels_are_compared_with_responsibilities_that_lack_them():
    """A tenth of the labels contradicts the clusters: this is the temperature's mean probability."""
    wrong = torch.arange(IMAGES) % 10 == 0
    given = torch.where(wrong, torch.arange(IMAGES) + 1, torch.arange(IMAGES)) % 3
    em = after_one_e_step(given)
    assert float(em.state.q.amax(1).min()) == 1
    em.state.encoder_nats = make(q=confident(torch.arange(IMAGES) % 3)).state.encoder_nats
    found = calibrate(em)
    assert found.labels == IMAGES and found.reproduced is None and found.source == "60 given labels"
    mean = float(tempered(confident(torch.arange(IMAGES) % 3), found.temperature).amax(1).mean())
    assert mean == pytest.approx(0.9, abs=0.05)


def test_cost():
    """Three times some images, and labelled ones if there are enough of them."""
    assert assessed_images(50) == 150 and assessed_images(10_000) == 1500 and assessed_images(10**6) == 1500
    assert assessed_images(2000, 19) == 600 and assessed_images(2000, 100) == 700
    assert assessed_images(2000, 2000) == 1100
