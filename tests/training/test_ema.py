"""Moving averages of the weights, and the weights of the best epoch."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from fromnoise.config import EMAConfig
from fromnoise.training.ema import EMA
from fromnoise.training.power_average import power_function_exponent


class _TwoWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))


def averages_of(config: EMAConfig, weights) -> list[list[float]]:
    """The averages after each step, where the weight after step i (from 1) is ``weights(i)``."""
    net = _TwoWeights()
    net.w.data.fill_(weights(0))
    ema = EMA(config, net)
    found = []
    for i in range(1, 300):
        net.w.data.fill_(weights(i))
        ema.update(i, 0.0)
        found.append([float(ema.parameters(k)["w"][0]) for k in range(len(ema.averages))])
    return found


@pytest.mark.parametrize("every", [1, 10])
def test_power_function_average_has_its_width(every):
    """Averages of i/n and (i/n)^2 give the mean and the standard deviation of the profile t^g at any update interval.

    Karras et al. 2024, sec. 3.
    """
    width, n = 0.1, 20_001
    net = _TwoWeights()
    ema = EMA(EMAConfig(decays=(), widths=(width,), update_every=every), net)
    for i in range(1, n + 1):
        with torch.no_grad():
            net.w.copy_(torch.tensor([i / n, (i / n) ** 2]))
        ema.update(i, 0.0)
    mean, square = ema.parameters()["w"].tolist()
    assert math.sqrt(square - mean**2) == pytest.approx(width, rel=2e-3)
    g = power_function_exponent(width)
    assert mean == pytest.approx((g + 1) / (g + 2), rel=1e-3)


def test_exponential_average_with_ratio_warmup():
    """The default, against a literal loop: early averages are near the weights (ID#59)."""
    wanted = [0.0, 0.0]
    for i, found in enumerate(averages_of(EMAConfig(decays=(0.99, 0.5)), math.sin), 1):
        for j, decay in enumerate((0.99, 0.5)):
            d = min(decay, (1 + i) / (10 + i))
            wanted[j] = d * wanted[j] + (1 - d) * math.sin(i)
        assert found == pytest.approx(wanted, rel=1e-12)


def test_constant_decay_from_the_first_update():
    """Warm-up "none" is the average of Keras' DDIM example: it starts at the initial weights."""
    wanted = math.cos(0)
    for i, (found,) in enumerate(averages_of(EMAConfig(decays=(0.999,), warmup="none"), math.cos), 1):
        wanted = 0.999 * wanted + 0.001 * math.cos(i)
        assert found == pytest.approx(wanted, rel=1e-12)


def ema_pytorch(beta: float, update_after_step: int, update_every: int, weights) -> list[float]:
    """The average after each call of ``update`` in ema-pytorch 0.8.3, written out."""
    counter, ema, found = 0, weights(0), []
    for i in range(1, 300):
        step = counter
        counter += 1
        if step % update_every == 0:
            if step <= update_after_step:
                ema = weights(i)
            else:
                epoch = max(counter - update_after_step - 1, 0)
                decay = 0.0 if epoch <= 0 else min(max(1 - (1 + epoch / 1.0) ** -(2 / 3), 0.0), beta)
                ema = ema + (weights(i) - ema) * (1 - decay)
        found.append(ema)
    return found


@pytest.mark.parametrize(("every", "after"), [(1, 0), (1, 100), (10, 0), (10, 100), (7, 30)])
def test_power_warmup_is_that_of_ema_pytorch(every, after):
    config = EMAConfig(decays=(0.8,), warmup="power", update_every=every, update_after=after)
    found = [each for (each,) in averages_of(config, math.sin)]
    assert found == pytest.approx(ema_pytorch(0.8, after, every, math.sin), rel=1e-12, abs=1e-14)


def test_decays_of_ema_pytorch():
    """With its defaults and lucidrains' decay: updates at steps 1, 11, 21, ..., copies up to step 101."""
    net = _TwoWeights()
    ema = EMA(EMAConfig(decays=(0.995,), warmup="power", update_every=10, update_after=100), net)
    updates = []
    for i in range(1, 125):
        net.w.data.fill_(i)
        ema.update(i, 0.0)
        value = float(ema.parameters()["w"][0])
        updates += [(i, value)] if not updates or value != updates[-1][1] else []
    assert [i for i, _ in updates] == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 101, 111, 121]
    assert all(value == i for i, value in updates if i <= 101)
    decays = {i: ema.decays_at(i)[0] for i in (101, 111, 121, 1101, 2921, 2931)}
    assert decays[101] == 0
    assert decays[111] == pytest.approx(0.798, abs=5e-4) and decays[121] == pytest.approx(0.869, abs=5e-4)
    assert decays[1101] == pytest.approx(0.990, abs=5e-4) and decays[2921] < 0.995 == decays[2931]


@pytest.mark.parametrize("warmup", ["ratio", "none"])
def test_updates_every_few_steps_and_copies_at_first(warmup):
    """A literal loop over the updates alone."""
    config = EMAConfig(decays=(0.9,), warmup=warmup, update_every=4, update_after=10)
    wanted = 0.0
    for i, (found,) in enumerate(averages_of(config, math.sin), 1):
        if i % 4 == 1:
            n = i - 10
            d = 0.0 if n <= 0 else min(0.9, (1 + n) / (10 + n)) if warmup == "ratio" else 0.9
            wanted = d * wanted + (1 - d) * math.sin(i)
        assert found == pytest.approx(wanted, rel=1e-12, abs=1e-14)


def test_without_average_the_raw_weights():
    net = _TwoWeights()
    ema = EMA(EMAConfig(decays=()), net)
    net.w.data.fill_(3)
    ema.update(1, 0.0)
    assert not ema.active and ema.parameters()["w"].tolist() == [3, 3]


def test_width_out_of_range():
    """The widest profile is the plain mean, 1/sqrt(12)."""
    assert power_function_exponent(12**-0.5) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="relative width"):
        power_function_exponent(0.3)


def test_best_epoch():
    """The weights at the end of the epoch with the lowest mean loss, also for a fractional number of steps (S1)."""
    net = _TwoWeights()
    ema = EMA(EMAConfig(decays=(), best_epoch=True), net, Fraction(7, 2))
    losses = [9.0, 9.0, 9.0, 1.0, 3.0, 2.0, 9.0, 2.0, 2.0, 2.0, 1.0]  # epochs end after steps 4, 7, 11: 7, 14/3, 7/4
    kept = []
    for step, loss in enumerate(losses, 1):
        net.w.data.fill_(step)
        ema.update(step, loss)
        kept.append(int(ema.parameters()["w"][0]))
    assert kept == [1, 2, 3, 4, 4, 4, 7, 7, 7, 7, 11]
    for step in range(12, 14):
        ema.update(step, 5.0)
    assert ema.active and ema.parameters()["w"].tolist() == [11, 11]
    net.w.data.fill_(15)
    ema.update(15, -9.0)  # step 14, which would have ended the epoch, was dropped: 15 does
    assert ema.parameters()["w"].tolist() == [15, 15]


def test_best_epoch_excludes_averages():
    with pytest.raises(ValueError, match="set it to false"):
        EMAConfig(best_epoch=True)
