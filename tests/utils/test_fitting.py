"""The training loop of small helper networks."""

from __future__ import annotations

import torch
from torch import nn

from fromnoise.utils.device import select_device
from fromnoise.utils.fitting import fit, lr_by_step, one_cycle

CPU = select_device("cpu", "fp32")


def test_linear_regression_converges_to_least_squares():
    """A linear network, without weight decay, reaches the solution of the normal equations."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator)
    y = torch.randn(50, 1, generator=generator)
    net = nn.Linear(3, 1)
    schedule = one_cycle(0.1, 400)
    losses = list(
        fit(
            net, [(x, y)] * 400, lambda b: (net(b[0]) - b[1]).square().mean(), CPU, lr_schedule=schedule, weight_decay=0
        )
    )
    design = torch.cat([x, torch.ones(50, 1)], 1)
    solution = torch.linalg.lstsq(design, y).solution.flatten()
    assert len(losses) == 400 and losses[-1] < losses[0]
    torch.testing.assert_close(torch.cat([net.weight[0], net.bias]).detach(), solution, atol=1e-3, rtol=0)


def test_the_network_trains_in_training_mode_and_ends_in_evaluation_mode():
    """One step for each batch, and gradients do not accumulate from step to step."""
    net, modes = nn.Linear(1, 1), []

    def loss(batch):
        modes.append(net.training)
        return net(batch).sum()

    for _ in fit(net.eval(), [torch.ones(2, 1)] * 3, loss, CPU, lr_schedule=lr_by_step(lambda k: 0.0), weight_decay=0):
        assert float(net.weight.grad) == 2
    assert modes == [True] * 3 and not net.training


def test_lr_by_step_sets_the_learning_rate_itself():
    """Adam's first step has the length of the learning rate, whatever the gradient."""
    net = nn.Linear(1, 1, bias=False)
    before = float(net.weight.detach())
    next(fit(net, [7.0], lambda b: b * net.weight.sum(), CPU, lr_schedule=lr_by_step(lambda k: 0.25), weight_decay=0))
    assert abs(before - float(net.weight.detach()) - 0.25) < 1e-6
