"""Learning rate, budget and averages as functions of progress."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from fromnoise.config import EMAConfig, TrainConfig
from fromnoise.training.ema import EMA, power
from fromnoise.training.optim import Budget, learning_rate


def test_budgets():
    """Steps, passes, images, minutes."""
    assert Budget.of(TrainConfig(steps=7), 100).steps == 7
    assert Budget.of(TrainConfig(epochs=2, batch=30), 100).steps == 7  # 200 images in 30s, the last batch runs on
    assert Budget.of(TrainConfig(images=90, batch=30), 100).steps == 3
    timed = Budget.of(TrainConfig(minutes=0.5), 100)
    assert timed.progress(10**9, 15.0) == 0.5


def test_learning_rate_shape():
    """Rises to the rate in ``warmup`` steps, stays, and falls to zero at the end of the budget."""
    recipe = TrainConfig(steps=100, lr=1.0, warmup=4, decay="linear", decay_from=0.5)
    rates = [learning_rate(recipe, s, s / 100) for s in range(101)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[50] == 1.0 and rates[75] == pytest.approx(0.5) and rates[100] == pytest.approx(0, abs=1e-12)
    cosine = TrainConfig(steps=100, lr=1.0, decay="cosine")
    assert [learning_rate(cosine, s, s / 100) for s in (0, 50, 100)] == pytest.approx([1, 0.5, 0], abs=1e-12)
    assert learning_rate(TrainConfig(steps=9, lr=0.3), 8, 1.0) == 0.3


class _Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))


def test_power_average_has_its_width():
    """Averaging i/n and (i/n)^2 over a run shows the mean and the standard deviation of the profile t^g.

    Karras et al. 2024, sec. 3.
    """
    width, n = 0.1, 20_000
    net = _Counter()
    ema = EMA(EMAConfig(decays=(), widths=(width,)), net)
    for i in range(1, n + 1):
        with torch.no_grad():
            net.w.copy_(torch.tensor([i / n, (i / n) ** 2]))
        ema.update(i, 0.0)
    mean, square = ema.weights()["w"].tolist()
    assert math.sqrt(square - mean**2) == pytest.approx(width, rel=2e-3)
    g = power(width)
    assert mean == pytest.approx((g + 1) / (g + 2), rel=1e-3)


def test_decay_average_is_the_textbook_one_after_warm_up():
    """Against a literal loop, and exact from the first step: early averages are near the weights (ID#59)."""
    net = _Counter()
    ema = EMA(EMAConfig(decays=(0.99, 0.5)), net)
    wanted = [0.0, 0.0]
    for i in range(1, 300):
        with torch.no_grad():
            net.w.fill_(math.sin(i))
        ema.update(i, 0.0)
        for j, decay in enumerate((0.99, 0.5)):
            d = min(decay, (1 + i) / (10 + i))
            wanted[j] = d * wanted[j] + (1 - d) * math.sin(i)
    got = [ema.weights(j)["w"][0].item() for j in range(2)]
    assert got == pytest.approx(wanted, rel=1e-12)


def test_no_average_means_the_raw_weights():
    """As the two tutorials train."""
    net = _Counter()
    ema = EMA(EMAConfig(decays=()), net)
    with torch.no_grad():
        net.w.fill_(3)
    ema.update(1, 0.0)
    assert ema.weights()["w"].tolist() == [3, 3]


def test_impossible_width():
    """The widest profile is the plain mean, 1/sqrt(12)."""
    assert power(12**-0.5) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="relative width"):
        power(0.3)


def test_best_epoch():
    """The weights at the end of the epoch of least mean loss, whatever steps an epoch has (S1)."""
    net = _Counter()
    ema = EMA(EMAConfig(decays=(), best_epoch=True), net, Fraction(7, 2))
    losses = [9.0, 9.0, 9.0, 1.0, 3.0, 2.0, 9.0, 2.0, 2.0, 2.0, 1.0]  # epochs end after steps 4, 7, 11: 7, 14/3, 7/4
    drawn = []
    for step, loss in enumerate(losses, 1):
        with torch.no_grad():
            net.w.fill_(step)
        ema.update(step, loss)
        drawn.append(int(ema.weights()["w"][0]))
    assert drawn == [1, 2, 3, 4, 4, 4, 7, 7, 7, 7, 11]
    for step in range(12, 14):
        ema.update(step, 5.0)
    assert ema.kept and ema.weights()["w"].tolist() == [11, 11]
    net.w.data.fill_(15)
    ema.update(15, -9.0)  # step 14, which would have ended the epoch, was dropped: 15 does
    assert ema.weights()["w"].tolist() == [15, 15]


def test_best_epoch_stands_alone():
    """One line for who asks for an average besides."""
    with pytest.raises(ValueError, match="set it false"):
        EMAConfig(best_epoch=True)
