"""A network that suits images, budget and machine."""

from __future__ import annotations

import time

import pytest
import torch

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.optim.muon import MuonOptimizer
from fromnoise.training import autosize
from fromnoise.training.cost import CostEstimate, estimate
from fromnoise.utils.device import select_device

FITTED = {"train.minutes": 3}


@pytest.mark.parametrize(
    ("side", "patch", "multipliers", "attention"),
    [(4, 1, (1,), (4,)), (8, 1, (1, 2), (4,)), (28, 2, (1, 2), (7,)), (32, 2, (1, 2), (8,)), (128, 8, (1, 2), (8,))],
)
def test_patches_and_levels_follow_the_side(side, patch, multipliers, attention):
    """The finest level about 16 pixels wide, the coarsest attends."""
    chosen = autosize.shaped(recipes.load("fast", FITTED), (3, side, side)).network
    assert (chosen.patch, chosen.multipliers, chosen.attention_resolutions) == (patch, multipliers, attention)


def machine(monkeypatch, speed):
    """A machine on which a step takes width^2/speed seconds, and networks of 500 width^2 parameters."""

    def estimate(model, compute, images):
        square = model.recipe.network.width**2
        return CostEstimate(500 * square, square / speed, 0.0)

    monkeypatch.setattr(autosize, "estimate", estimate)
    return select_device("cpu", "fp32")


def chosen(monkeypatch, speed, minutes, **over):
    made = recipes.load("fast", {"train.minutes": minutes} | over)
    said = []
    compute = machine(monkeypatch, speed)
    return autosize.fit(made, DatasetInfo((1, 28, 28)), 60_000, compute, said.append), said


def test_the_widest_network_that_sees_enough_images(monkeypatch):
    """And no wider one would; twice the budget or twice the speed are the same."""
    found, said = chosen(monkeypatch, 1e4, 3.0)
    images = {width: 64 * 180 * 1e4 / width**2 for width in autosize.WIDTHS}
    enough = [width for width in autosize.WIDTHS if images[width] >= autosize.IMAGES * 500 * width**2]
    assert found.network.width == max(enough)
    assert min(autosize.WIDTHS) < max(enough) < max(autosize.WIDTHS)
    assert f"network.width {max(enough)}" in said[0]
    assert chosen(monkeypatch, 2e4, 3.0)[0].network == chosen(monkeypatch, 1e4, 6.0)[0].network


def test_a_slow_machine_takes_the_narrowest(monkeypatch):
    assert chosen(monkeypatch, 1.0, 0.1)[0].network.width == min(autosize.WIDTHS)


def test_what_the_user_says_stays(monkeypatch):
    """Keys that are named on the command line are not chosen."""
    found, said = chosen(monkeypatch, 1e4, 3.0, **{"network.width": 64, "network.patch": 1})
    assert (found.network.width, found.network.patch, said) == (64, 1, [])
    assert found.network.attention_resolutions == (7,)


def test_a_run_that_goes_on_keeps_its_network(monkeypatch):
    """Whatever the machine is like by then."""
    found, _ = chosen(monkeypatch, 1e4, 3.0)
    again = autosize.taken(recipes.load("fast", {"train.minutes": 60}), found)
    assert again.network == found.network and again.train.minutes == 60


def test_an_estimate_counts_the_optimiser_and_leaves_the_weights(monkeypatch):
    """A step is more than its gradients; weights that were measured are those that train."""
    made = recipes.load("fast", {"train.minutes": 1, "network.width": 16})
    model, compute = build(made, DatasetInfo((1, 28, 28))), select_device("cpu")
    before = {name: t.clone() for name, t in model.denoiser.state_dict().items()}
    monkeypatch.setattr(MuonOptimizer, "step", lambda self: time.sleep(0.5))
    assert estimate(model, compute, images=64).step_seconds > 0.5  # the gradients alone take a tenth
    assert all(torch.equal(t, before[name]) for name, t in model.denoiser.state_dict().items())
    assert all(p.grad is None for p in model.denoiser.parameters())
