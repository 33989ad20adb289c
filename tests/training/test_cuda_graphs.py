"""Training passes as CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fromnoise.networks.unet import UNet
from fromnoise.training import cuda_graphs

OPTIONS: dict[str, Any] = {"size": (8, 8), "classes": 3, "width": 8, "multipliers": (1, 2), "attention_resolutions": ()}


def gradients(network: UNet, steps: int, device: str) -> list[torch.Tensor]:
    """Gradients of all parameters after each of several steps of gradient descent, flat."""
    found: list[torch.Tensor] = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, 1, 8, 8, generator=generator).to(device)
        loss = network(x, torch.full((4,), 10.0 * step, device=device), torch.tensor([0, 1, 2, -1], device=device))
        loss.square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.1 * (p.grad if p.grad is not None else 0)
                p.grad = None
    return found


def networks(device: str) -> tuple[UNet, UNet]:
    """Two networks with the same weights, the second with graphs."""
    pair: list[UNet] = []
    for _ in range(2):
        torch.manual_seed(0)
        pair.append(UNet(1, 1, **OPTIONS).to(device).train())
    assert cuda_graphs.enable(pair[1])
    return pair[0], pair[1]


def test_on_cpus_nothing_changes() -> None:
    plain, graphed = networks("cpu")
    for a, b in zip(gradients(plain, 6, "cpu"), gradients(graphed, 6, "cpu"), strict=True):
        assert torch.equal(a, b)
    assert set(graphed.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize("options", [{"dropout": 0.1}, {"recompute": True}])
def test_random_states_and_compiled_networks_have_no_graph(options: dict[str, Any]) -> None:
    assert not cuda_graphs.enable(UNet(1, 1, **OPTIONS, **options))
    compiled = UNet(1, 1, **OPTIONS)
    compiled.compile()
    assert not cuda_graphs.enable(compiled)
    assert not cuda_graphs.enable(torch.nn.Conv2d(1, 1, 3))


@pytest.mark.gpu
def test_gradients_are_equal() -> None:
    plain, graphed = networks("cuda")
    for a, b in zip(gradients(plain, 8, "cuda"), gradients(graphed, 8, "cuda"), strict=True):
        assert torch.equal(a, b)
    graphed.eval()
    x = torch.zeros(3, 1, 8, 8, device="cuda")
    assert graphed(x, torch.zeros(3, device="cuda")).shape == x.shape  # another size of batch, in evaluation mode
