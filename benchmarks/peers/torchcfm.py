"""torchcfm: its examples on MNIST and CIFAR-10."""

from __future__ import annotations

import copy

import torch
from foreign import foreign
from torch import Tensor, nn

from peers.common import Budget, Task, Trained, with_weights


def torchcfm(task: Task, budget: Budget, bf16: bool, network: str = "mnist") -> Trained:
    """examples/images/mnist_example.ipynb (OT-CFM), or cifar10/train_cifar10.py; float32 alone is offered.

    torchdyn's ``NeuralODE`` is replaced by torchdiffeq, which the library's own evaluation calls: Euler and dopri5.
    """
    cfm, unet, torchdiffeq = foreign("torchcfm"), foreign("torchcfm.models.unet.unet"), foreign("torchdiffeq")
    shape, batch = task.shape, 128
    large = network == "cifar"
    options = {"num_channels": 32, "num_res_blocks": 1}
    if large:
        options = {"num_channels": 128, "num_res_blocks": 2, "channel_mult": [1, 2, 2, 2], "num_heads": 4}
        options |= {"num_head_channels": 64, "attention_resolutions": "16", "dropout": 0.1}
    net = unet.UNetModelWrapper(dim=shape, **options)
    averaged = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4 if large else 1e-3)
    flow = cfm.ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
    done, batches = 0, task.batches(batch, flip=large)
    net.train()
    while budget.left():
        x1, _ = next(batches)
        optimizer.zero_grad()
        t, x, u = flow.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        torch.mean((net(t, x) - u) ** 2).backward()
        if large:  # warm-up of 5,000 steps of 400,001, compressed into the budget
            for group in optimizer.param_groups:
                group["lr"] = 2e-4 * min(1.0, budget.fraction * 400_001 / 5_000)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        done += 1
        if large:
            with torch.no_grad():
                torch._foreach_lerp_(list(averaged.parameters()), list(net.parameters()), 1 - 0.9999)

    def adaptive(count: int) -> Tensor:
        ends = torch.linspace(0, 1, 2)
        return torchdiffeq.odeint(net, torch.randn(count, *shape), ends, atol=1e-4, rtol=1e-4, method="dopri5")[-1]

    def euler(count: int) -> Tensor:
        times = torch.linspace(0, 1, steps + 1)
        return torchdiffeq.odeint(net, torch.randn(count, *shape), times, method="euler")[-1]

    steps = 20 if large else 100  # a hundred evaluations of the large network would take hours
    samplers = {f"last weights, Euler, {steps} steps": with_weights(net, None, euler)}
    if large:
        samplers[f"average, Euler, {steps} steps"] = with_weights(net, averaged, euler)
    else:
        samplers["last weights, dopri5, tolerance 1e-4"] = with_weights(net, None, adaptive)
    return Trained(net, done, done * batch, budget.used, samplers)
