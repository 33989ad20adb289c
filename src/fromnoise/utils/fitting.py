"""The training loop of small helper networks: feature extractors, the clustering encoder and the noisy classifier.

Diffusion models have their own loop, ``training/loop.py``, with checkpoints, moving averages and several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from fromnoise.utils.device import ComputeConfig

B = TypeVar("B")
LRSchedule = Callable[[Optimizer], LRScheduler]
"""Makes the learning-rate schedule of an optimizer; it sets the learning rate itself, not a factor."""


def fit(
    network: nn.Module,
    batches: Iterable[B],
    loss: Callable[[B], Tensor],
    compute: ComputeConfig,
    *,
    lr_schedule: LRSchedule,
    weight_decay: float,
) -> Generator[float, None, None]:
    """Train a network with AdamW, one step for each batch.

    Args:
        network: moved to the device of ``compute``; in training mode until the last step, then in evaluation mode.
        batches: what ``loss`` takes, of any type; as many as there are steps.
        loss: computes a scalar loss of ``network`` from a batch.
        compute: device and memory format.
        lr_schedule: ``one_cycle(...)`` or ``lr_by_step(...)``.
        weight_decay: decoupled weight decay (Loshchilov and Hutter 2019).

    Yields:
        The loss after each step.
    """
    compute.to_device(network).train()
    optimizer = AdamW(network.parameters(), lr=1.0, weight_decay=weight_decay)
    scheduler = lr_schedule(optimizer)
    for batch in batches:
        value = loss(batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        scheduler.step()
        yield float(value.detach())
    network.eval()


def one_cycle(peak: float, steps: int, rise: float = 0.2) -> LRSchedule:
    """One rise and fall of the learning rate, with Adam's first beta falling and rising (Smith and Topin 2019).

    Args:
        peak: highest learning rate.
        steps: number of steps.
        rise: fraction of the steps before the peak.
    """
    return lambda optimizer: OneCycleLR(optimizer, peak, total_steps=steps + 1, pct_start=rise)


def lr_by_step(lr: Callable[[int], float]) -> LRSchedule:
    """The learning rate as a function of the step, counted from 0; ``lr`` must also accept the number of steps."""
    return lambda optimizer: LambdaLR(optimizer, lr)
