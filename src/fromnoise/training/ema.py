"""The weights used for sampling: moving averages of the trained weights, or the weights of the best epoch."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from fromnoise.config import EMAConfig
from fromnoise.optim.parts import local, local_parts
from fromnoise.training.ema_snapshots import SnapshotAverages
from fromnoise.training.power_average import power_function_exponent


class BestEpoch:
    """The weights at the end of the epoch with the lowest mean training loss, as the tutorial S1 keeps them."""

    def __init__(self, steps_per_epoch: Fraction, parameters: dict[str, Tensor]) -> None:
        """Start without weights.

        Args:
            steps_per_epoch: training images / batch, which need not be whole.
            parameters: the trained parameters by name.
        """
        self._steps_per_epoch, self._parameters = steps_per_epoch, parameters
        self.weights: dict[str, Tensor] = {}
        self._loss_sum, self._loss_count, self._lowest_loss, self._epochs = 0.0, 0, math.inf, 0

    def update(self, step: int, loss: float) -> None:
        """Count the loss of a step; at the end of an epoch copy the weights if its mean loss is the lowest so far.

        Args:
            step: number of the step, from 1.
            loss: training loss of the step.
        """
        self._loss_sum, self._loss_count = self._loss_sum + loss, self._loss_count + 1
        if step // self._steps_per_epoch == self._epochs:  # compared with all steps before: some may have been dropped
            return
        mean = self._loss_sum / self._loss_count
        self._loss_sum, self._loss_count, self._epochs = 0.0, 0, int(step // self._steps_per_epoch)
        if mean < self._lowest_loss:
            self._lowest_loss = mean
            self.weights = {name: p.detach().clone() for name, p in self._parameters.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The best weights, under ``best.PARAMETER``, and the loss statistics of the current epoch."""
        statistics = [self._loss_sum, self._loss_count, self._lowest_loss, self._epochs]
        tensors = {f"best.{name}": t for name, t in self.weights.items()}
        return {"epoch_statistics": torch.tensor(statistics, dtype=torch.float64)} | tensors

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self._loss_sum, count, self._lowest_loss, epochs = state["epoch_statistics"].tolist()
        self._loss_count, self._epochs = int(count), int(epochs)
        saved = {name: state.get(f"best.{name}") for name in self._parameters}
        self.weights = {name: torch.empty_like(self._parameters[name]) for name, t in saved.items() if t is not None}
        for name, kept in self.weights.items():
            local(kept).copy_(state[f"best.{name}"])


class EMA:
    """Exponential and power-function moving averages of a network's parameters, or its best epoch.

    Every ``update_every`` steps, first after step 1:  average <- d average + (1 - d) weights, where

        d = 0                                   up to step ``update_after``: the average is a copy of the weights
        d = min(decay, (1 + n) / (10 + n))      warmup "ratio" (TensorFlow's), n = step - update_after
        d = min(decay, 1 - n^(-2/3))            warmup "power" (that of ema-pytorch and lucidrains)
        d = decay                               warmup "none"
        d = (1 - update_every / step)^(g + 1)   power-function averages (Karras et al. 2024), g from their width

    Averages of sharded parameters are sharded in the same way; an update exchanges nothing.

    Attributes:
        averages: parameters by name of each average.
        snapshots: two more averages, which are stored through training; None if the recipe has none.
    """

    def __init__(self, config: EMAConfig, network: nn.Module, steps_per_epoch: Fraction = Fraction(1)) -> None:
        """Start every average at the current weights.

        Args:
            config: which averages.
            network: its parameters with ``requires_grad`` are averaged.
            steps_per_epoch: for ``best_epoch`` alone.
        """
        self.config = config
        self._parameters: dict[str, Tensor] = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self._best = BestEpoch(steps_per_epoch, self._parameters) if config.best_epoch else None
        count = len(config.decays) + len(config.widths)
        self.snapshots = SnapshotAverages(config, self._parameters) if config.snapshots else None
        self.averages = [{name: p.detach().clone() for name, p in self._parameters.items()} for _ in range(count)]

    def decays_at(self, step: int) -> list[float]:
        """The factor d of each average at the update after a step (from 1): first ``decays``, then ``widths``."""
        n = step - self.config.update_after
        if n <= 0:
            return [0.0] * len(self.averages)
        limit = {"ratio": (1 + n) / (10 + n), "power": 1 - n ** (-2 / 3), "none": 1.0}[self.config.warmup]
        interval = min(self.config.update_every, step)
        power = [(1 - interval / step) ** (power_function_exponent(w) + 1) for w in self.config.widths]
        return [min(decay, limit) for decay in self.config.decays] + power

    @torch.no_grad()
    def update(self, step: int, loss: float) -> None:
        """Update the averages after an optimizer step.

        Args:
            step: number of the step, from 1.
            loss: training loss of the step, which ``best_epoch`` compares.
        """
        if self._best is not None:
            self._best.update(step, loss)
        if self.snapshots is not None:
            self.snapshots.update(step)
        if (step - 1) % self.config.update_every:
            return
        parameters = local_parts(self._parameters.values())
        for average, decay in zip(self.averages, self.decays_at(step), strict=True):
            torch._foreach_lerp_(local_parts(average.values()), parameters, 1 - decay)

    @property
    def active(self) -> bool:
        """Whether ``parameters`` returns other weights than the raw ones."""
        return bool(self.averages or (self._best is not None and self._best.weights))

    def parameters(self, index: int = 0) -> dict[str, Tensor]:
        """Parameters by name: the best epoch's, else those of average ``index``; the raw ones if there is neither."""
        if self._best is not None and self._best.weights:
            return self._best.weights
        return self.averages[index] if self.averages else {name: p.detach() for name, p in self._parameters.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """All averages, under ``INDEX.PARAMETER``, and the state of the best epoch."""
        tensors = {f"{i}.{name}": t for i, average in enumerate(self.averages) for name, t in average.items()}
        more = self.snapshots.state_dict() if self.snapshots is not None else {}
        return tensors | more | (self._best.state_dict() if self._best is not None else {})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned; of sharded parameters ``state`` has the parts of this process."""
        for i, average in enumerate(self.averages):
            for name, t in average.items():
                local(t).copy_(state[f"{i}.{name}"])
        if self.snapshots is not None:
            self.snapshots.load_state_dict(state)
        if self._best is not None:
            self._best.load_state_dict(state)
