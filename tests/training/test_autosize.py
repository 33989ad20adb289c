"""Choosing a network for the images, the budget and the machine; the estimate of the cost of training."""

from __future__ import annotations

import importlib
import time

import pytest
import torch

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.optim.muon import MuonOptimizer
from fromnoise.training.autosize import MIN_IMAGES_PER_PARAMETER, WIDTHS, autosize, choose_levels, keep_choices
from fromnoise.training.cost_estimate import CostEstimate, estimate_cost
from fromnoise.utils.device import select_device


@pytest.mark.parametrize(
    ("side", "patch", "multipliers", "attention"),
    [(4, 1, (1,), (4,)), (8, 1, (1, 2), (4,)), (28, 2, (1, 2), (7,)), (32, 2, (1, 2), (8,)), (128, 8, (1, 2), (8,))],
)
def test_levels_follow_the_resolution(side, patch, multipliers, attention):
    """The finest level is about 16 pixels wide, and the coarsest has attention."""
    network = choose_levels(recipes.load("fast", {"train.minutes": 3}), (3, side, side)).network
    assert (network.patch, network.multipliers, network.attention_resolutions) == (patch, multipliers, attention)


def simulate_machine(monkeypatch, speed):
    """Let a step take width^2/speed seconds, and a network have 500 width^2 parameters."""

    def simulated(model, compute, images):
        square = model.recipe.network.width**2
        return CostEstimate(500 * square, square / speed, 0.0)

    monkeypatch.setattr(importlib.import_module("fromnoise.training.autosize"), "estimate_cost", simulated)
    return select_device("cpu", "fp32")


def autosized(monkeypatch, speed, minutes, **overrides):
    """The recipe for 60,000 images of 28x28, and the messages."""
    recipe = recipes.load("fast", {"train.minutes": minutes} | overrides)
    messages = []
    compute = simulate_machine(monkeypatch, speed)
    return autosize(recipe, DatasetInfo((1, 28, 28)), 60_000, compute, messages.append), messages


def test_widest_network_that_sees_enough_images(monkeypatch):
    """The next width would not see enough; twice the budget equals twice the speed."""
    found, messages = autosized(monkeypatch, 1e4, 3.0)
    images = {width: 64 * 180 * 1e4 / width**2 for width in WIDTHS}
    enough = [width for width in WIDTHS if images[width] >= MIN_IMAGES_PER_PARAMETER * 500 * width**2]
    assert found.network.width == max(enough)
    assert min(WIDTHS) < max(enough) < max(WIDTHS)
    assert f"network.width {max(enough)}" in messages[0]
    assert autosized(monkeypatch, 2e4, 3.0)[0].network == autosized(monkeypatch, 1e4, 6.0)[0].network


def test_slow_machine_gets_the_narrowest_network(monkeypatch):
    assert autosized(monkeypatch, 1.0, 0.1)[0].network.width == min(WIDTHS)


def test_keys_set_by_the_user_are_kept(monkeypatch):
    found, messages = autosized(monkeypatch, 1e4, 3.0, **{"network.width": 64, "network.patch": 1})
    assert (found.network.width, found.network.patch, messages) == (64, 1, [])
    assert found.network.attention_resolutions == (7,)


def test_resumed_run_keeps_its_network(monkeypatch):
    """Also on another machine, or with another budget."""
    found, _ = autosized(monkeypatch, 1e4, 3.0)
    again = keep_choices(recipes.load("fast", {"train.minutes": 60}), found)
    assert again.network == found.network and again.train.minutes == 60


def test_cost_estimate_includes_the_optimizer_and_keeps_the_weights(monkeypatch):
    """A slow optimizer step shows in the estimate, and neither weights nor gradients are left changed."""
    recipe = recipes.load("fast", {"train.minutes": 1, "network.width": 16})
    model, compute = build(recipe, DatasetInfo((1, 28, 28))), select_device("cpu")
    before = {name: t.clone() for name, t in model.denoiser.state_dict().items()}
    monkeypatch.setattr(MuonOptimizer, "step", lambda self: time.sleep(0.5))
    assert estimate_cost(model, compute, images=64).step_seconds > 0.5  # the gradients alone take a tenth
    assert all(torch.equal(t, before[name]) for name, t in model.denoiser.state_dict().items())
    assert all(p.grad is None for p in model.denoiser.parameters())
