"""Registered optimizers: options, refused values, and agreement with the papers' update rules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fromnoise import registry
from fromnoise.config import TrainConfig
from fromnoise.optim import Adam, AdamW, Muon, Optimizer
from fromnoise.training.optim import OptimizerStep, optimizer_from_config


def test_registered():
    """The fields of the dataclasses are the options, each with a help line."""
    assert registry.names("optimizer") == ["adam", "adamw", "muon"]
    found = {name: registry.options("optimizer", name) for name in registry.names("optimizer")}
    assert {name: list(options) for name, options in found.items()} == {
        "adam": ["betas", "eps"],
        "adamw": ["betas", "eps", "weight_decay"],
        "muon": ["momentum", "betas", "eps"],
    }
    assert all(option.help for options in found.values() for option in options.values())
    assert registry.build("optimizer", "adamw", {"weight_decay": 0.1}) == AdamW(weight_decay=0.1)


@pytest.mark.parametrize(
    ("component", "options", "message"),
    [
        (Adam, {"betas": (0.9, 1.0)}, "betas"),
        (Adam, {"eps": 0.0}, "eps"),
        (AdamW, {"weight_decay": -1.0}, "weight_decay"),
        (Muon, {"momentum": 1.0}, "momentum"),
        (Muon, {"betas": (-0.1, 0.9)}, "betas"),
    ],
)
def test_options_out_of_range(component, options, message):
    with pytest.raises(ValueError, match=message):
        component(**options)


@pytest.mark.parametrize("optimizer", [Adam((0.8, 0.99), 1e-3), AdamW((0.8, 0.99), 1e-3, 0.1)])
def test_adam_update_rule(optimizer: Optimizer):
    """Kingma and Ba 2015, alg. 1, as a literal loop; with the decoupled decay of Loshchilov and Hutter 2019, alg. 2."""
    decay = optimizer.weight_decay if isinstance(optimizer, AdamW) else 0.0
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(0.5)
    step = OptimizerStep(optimizer, net, 1.0)
    theta, m, v = 0.5, 0.0, 0.0
    for t in range(1, 30):
        g, lr = math.sin(3 * t) + 0.2, 0.1 / t
        net.weight.grad = torch.full_like(net.weight, g)
        step.step(lr)
        m, v = 0.8 * m + 0.2 * g, 0.99 * v + 0.01 * g * g
        m_hat, v_hat = m / (1 - 0.8**t), v / (1 - 0.99**t)
        theta = theta - lr * decay * theta - lr * m_hat / (math.sqrt(v_hat) + 1e-3)
        assert float(net.weight.detach()) == pytest.approx(theta, rel=1e-4, abs=1e-6)


def test_frozen_parameters_are_left_out():
    net = nn.Linear(3, 2)
    net.bias.requires_grad_(False)
    for optimizer in (Adam(), AdamW(), Muon()):
        held = [p for o in optimizer.build(net, 0.1) for group in o.param_groups for p in group["params"]]
        assert [p is net.weight for p in held] == [True]


def test_optimizer_of_a_recipe():
    """The options of train.optimizer are those of its constructor; one that it does not have is refused."""
    assert optimizer_from_config(TrainConfig(optimizer={"kind": "adam", "betas": (0.8, 0.9)})) == Adam((0.8, 0.9))
    assert optimizer_from_config(TrainConfig(optimizer="adamw")) == AdamW()
    assert optimizer_from_config(TrainConfig(optimizer={"kind": "adamw", "weight_decay": 0.1})) == AdamW(
        weight_decay=0.1
    )
    assert optimizer_from_config(TrainConfig(optimizer="muon")) == Muon()
    with pytest.raises(ValueError, match="weight_decay is an option of adamw"):
        TrainConfig(optimizer={"kind": "muon", "weight_decay": 0.1})
