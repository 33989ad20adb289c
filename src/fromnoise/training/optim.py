"""The training budget, learning-rate schedules, and the optimizer step with gradient clipping.

Everything is a function of the steps done and the budget used: nothing here keeps a clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fromnoise import registry
from fromnoise.config import TrainConfig
from fromnoise.optim import Optimizer
from fromnoise.optim.parts import local, whole


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps, or of seconds; the other one is None."""

    steps: int | None
    seconds: float | None

    @staticmethod
    def from_config(config: TrainConfig, images: int) -> Budget:
        """The budget of a recipe.

        Args:
            config: has exactly one of steps, epochs, images and minutes.
            images: size of the training set.
        """
        if config.minutes is not None:
            return Budget(None, config.minutes * 60)
        if config.steps is not None:
            return Budget(config.steps, None)
        total = config.images if config.images is not None else (config.epochs or 0) * images
        return Budget(max(1, math.ceil(total / config.batch)), None)

    def used(self, steps: int, seconds: float) -> float:
        """Fraction of the budget used after so many steps and seconds, in [0, 1]."""
        used = steps / self.steps if self.steps is not None else seconds / (self.seconds or 1)
        return min(1.0, used)


def learning_rate(config: TrainConfig, step: int, budget_used: float) -> float:
    """Learning rate of a step: linear warm-up, constant, then linear or cosine decay to 0 at the end of the budget.

    Args:
        config: lr, warmup, decay and decay_from.
        step: index of the step, from 0.
        budget_used: fraction of the budget used before the step.
    """
    rate = config.lr * min(1.0, (step + 1) / (config.warmup + 1))
    if config.decay == "constant" or budget_used <= config.decay_from:
        return rate
    part = (budget_used - config.decay_from) / max(1e-9, 1 - config.decay_from)
    # the last step still has a rate above 0, because budget_used is that at its beginning
    return rate * ((1 - part) if config.decay == "linear" else (0.5 + 0.5 * math.cos(math.pi * part)))


def optimizer_from_config(config: TrainConfig) -> Optimizer:
    """The optimizer that a recipe names, with its options."""
    return registry.build("optimizer", config.optimizer.kind, config.optimizer.options())


class OptimizerStep:
    """Clips gradients, steps the optimizer, and saves the optimizer's state by parameter name."""

    def __init__(self, optimizer: Optimizer, network: nn.Module, lr: float, dtype: torch.dtype = torch.float32) -> None:
        """Build the optimizer for a network.

        Args:
            optimizer: a registered optimizer.
            network: its parameters with ``requires_grad`` are trained.
            lr: learning rate of the first step.
            dtype: dtype of the network's arithmetic.
        """
        self._names: dict[Tensor, str] = {p: name for name, p in network.named_parameters() if p.requires_grad}
        self.parameters: list[Tensor] = list(self._names)
        self._optimizers = optimizer.build(network, lr, dtype)

    def clip(self, max_norm: float | None) -> float:
        """Clip the gradient to a norm, or leave it if ``max_norm`` is None; returns the norm before."""
        return float(whole(nn.utils.clip_grad_norm_(self.parameters, math.inf if max_norm is None else max_norm)))

    def step(self, lr: float) -> None:
        """Update the parameters from their gradients with this learning rate."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Moments and step counts, under ``PARAMETER.KEY``."""
        return {
            f"{self._names[p]}.{key}": torch.as_tensor(value)
            for optimizer in self._optimizers
            for p, values in optimizer.state.items()
            for key, value in values.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned; of sharded parameters ``state`` has the parts of this process."""
        by_name = {name: p for p, name in self._names.items()}
        owner = {p: o for o in self._optimizers for group in o.param_groups for p in group["params"]}
        for optimizer in self._optimizers:
            optimizer.state.clear()
        for name_and_key, value in state.items():
            name, _, key = name_and_key.rpartition(".")
            p = by_name[name]
            # the fused update is faster if moments have the memory layout of their parameter
            if value.shape == local(p.detach()).shape:
                kept = torch.empty_like(p.detach())
                local(kept).copy_(value)
            else:
                kept = value.clone().to(p.device)
            owner[p].state[p][key] = kept
