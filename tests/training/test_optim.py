"""The budget and the learning rate, functions of progress."""

from __future__ import annotations

import pytest

from fromnoise.config import TrainConfig
from fromnoise.training.optim import Budget, learning_rate


def test_budget_in_steps_epochs_images_and_minutes():
    assert Budget.from_config(TrainConfig(steps=7), 100).steps == 7
    assert Budget.from_config(TrainConfig(epochs=2, batch=30), 100).steps == 7  # 200 images in batches of 30
    assert Budget.from_config(TrainConfig(images=90, batch=30), 100).steps == 3
    timed = Budget.from_config(TrainConfig(minutes=0.5), 100)
    assert timed.used(10**9, 15.0) == 0.5


def test_learning_rate_warms_up_and_decays():
    """Rises to lr in ``warmup`` steps, stays, and falls to 0 at the end of the budget."""
    config = TrainConfig(steps=100, lr=1.0, warmup=4, decay="linear", decay_from=0.5)
    rates = [learning_rate(config, s, s / 100) for s in range(101)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[50] == 1.0 and rates[75] == pytest.approx(0.5) and rates[100] == pytest.approx(0, abs=1e-12)
    cosine = TrainConfig(steps=100, lr=1.0, decay="cosine")
    assert [learning_rate(cosine, s, s / 100) for s in (0, 50, 100)] == pytest.approx([1, 0.5, 0], abs=1e-12)
    assert learning_rate(TrainConfig(steps=9, lr=0.3), 8, 1.0) == 0.3
