"""The optimiser and its learning rate, each a function of progress.

Nothing here keeps a clock of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fromnoise.config import TrainConfig
from fromnoise.training.muon import Muon


@dataclass(frozen=True)
class Budget:
    """How long training goes on: a number of steps, or of seconds."""

    steps: int | None
    seconds: float | None

    @staticmethod
    def of(recipe: TrainConfig, images: int) -> Budget:
        """The budget of a recipe for a set of ``images`` training images."""
        if recipe.minutes is not None:
            return Budget(None, recipe.minutes * 60)
        if recipe.steps is not None:
            return Budget(recipe.steps, None)
        wanted = recipe.images if recipe.images is not None else (recipe.epochs or 0) * images
        return Budget(max(1, math.ceil(wanted / recipe.batch)), None)

    def progress(self, steps: int, seconds: float) -> float:
        """Share of the budget that is used, in [0, 1]."""
        used = steps / self.steps if self.steps is not None else seconds / (self.seconds or 1)
        return min(1.0, used)


def learning_rate(recipe: TrainConfig, step: int, progress: float) -> float:
    """Of step ``step`` (from 0).

    Linear warm-up, then constant, then a linear or cosine fall to zero at the end of the budget.
    """
    rate = recipe.lr * min(1.0, (step + 1) / (recipe.warmup + 1))
    if recipe.decay == "constant" or progress <= recipe.decay_from:
        return rate
    part = (progress - recipe.decay_from) / max(1e-9, 1 - recipe.decay_from)
    # the step that ends the budget still moves: progress is taken at its beginning
    return rate * ((1 - part) if recipe.decay == "linear" else (0.5 + 0.5 * math.cos(math.pi * part)))


class OptimizerStep:
    """The optimiser of a recipe: Adam, AdamW, or Muon for the matrices and Adam for all else; its state by name."""

    def __init__(self, recipe: TrainConfig, net: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        """Move the trainable parameters of ``net``, whose arithmetic is in ``dtype``."""
        self._names: dict[Tensor, str] = {p: name for name, p in net.named_parameters() if p.requires_grad}
        self.parameters: list[Tensor] = list(self._names)
        apart = {p for m in net.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        matrices = [p for p in self.parameters if recipe.optimizer == "muon" and p.ndim > 1 and p not in apart]
        rest = [p for p in self.parameters if p not in set(matrices)]
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        self._parts: list[torch.optim.Optimizer] = (
            [Muon(matrices, recipe.lr, bf16=dtype == torch.bfloat16)] if matrices else []
        )
        if rest:
            config = {"betas": recipe.betas, "weight_decay": recipe.weight_decay}
            self._parts.append(kind(rest, lr=recipe.lr, fused=True, **config))

    def clip(self, limit: float | None) -> float:
        """Norm of the gradient, which is scaled down where it is above ``limit``."""
        return float(nn.utils.clip_grad_norm_(self.parameters, math.inf if limit is None else limit))

    def step(self, lr: float) -> None:
        """Move by the gradients, at this learning rate."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def forget(self) -> None:
        """Drop the gradients."""
        for p in self.parameters:
            p.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments and counts, as ``PARAMETER.KEY``."""
        return {
            f"{self._names[p]}.{key}": torch.as_tensor(value)
            for part in self._parts
            for p, values in part.state.items()
            for key, value in values.items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from such a state."""
        named = {name: p for p, name in self._names.items()}
        of = {p: part for part in self._parts for group in part.param_groups for p in group["params"]}
        for part in self._parts:
            part.state.clear()
        for place, value in state.items():
            name, _, key = place.rpartition(".")
            p = named[name]
            # moments lie in memory as their weights do: the update is faster so
            kept = torch.empty_like(p).copy_(value) if value.shape == p.shape else value.clone().to(p.device)
            of[p].state[p][key] = kept.detach()
