"""The optimiser, its learning rate and the moving averages, each a function of progress.

Nothing here keeps a clock of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fromnoise.recipe import EmaRecipe, TrainRecipe


@dataclass(frozen=True)
class Budget:
    """How long training goes on: a number of steps, or of seconds."""

    steps: int | None
    seconds: float | None

    @staticmethod
    def of(recipe: TrainRecipe, images: int) -> Budget:
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


def learning_rate(recipe: TrainRecipe, step: int, progress: float) -> float:
    """Of step ``step`` (from 0).

    Linear warm-up, then constant, then a linear or cosine fall to zero at the end of the budget.
    """
    rate = recipe.lr * min(1.0, (step + 1) / (recipe.warmup + 1))
    if recipe.decay == "constant" or progress <= recipe.decay_from:
        return rate
    part = (progress - recipe.decay_from) / max(1e-9, 1 - recipe.decay_from)
    # the step that ends the budget still moves: progress is taken at its beginning
    return rate * ((1 - part) if recipe.decay == "linear" else (0.5 + 0.5 * math.cos(math.pi * part)))


def optimizer(recipe: TrainRecipe, net: nn.Module) -> torch.optim.Optimizer:
    """Adam or AdamW over the trainable parameters."""
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    parameters = [p for p in net.parameters() if p.requires_grad]
    return kind(parameters, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)


class Averages:
    """Exponential and power-function moving averages of a network's parameters."""

    def __init__(self, recipe: EmaRecipe, net: nn.Module) -> None:
        """Start every average at the current weights."""
        self.recipe = recipe
        self._live = {name: p for name, p in net.named_parameters()}
        count = len(recipe.decays) + len(recipe.widths)
        self.tracks = [{name: p.detach().clone() for name, p in self._live.items()} for _ in range(count)]

    def factors(self, step: int) -> list[float]:
        """Share of the old average that is kept after step ``step`` (from 1), one for each."""
        warm = [min(d, (1 + step) / (10 + step)) for d in self.recipe.decays]
        return warm + [(1 - 1 / step) ** (power(w) + 1) for w in self.recipe.widths]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step ``step`` (from 1)."""
        live: list[Tensor] = list(self._live.values())
        for track, keep in zip(self.tracks, self.factors(step), strict=True):
            torch._foreach_lerp_(list(track.values()), live, 1 - keep)

    def weights(self, which: int = 0) -> dict[str, Tensor]:
        """The parameters of average ``which``; the live ones if none is kept."""
        return self.tracks[which] if self.tracks else {name: p.detach() for name, p in self._live.items()}


def power(width: float) -> float:
    """Exponent of the power-function average of relative width ``width``.

    The width is the standard deviation of the average's response t^g, relative to the length of the run, so that
    g solves (g + 1)^(1/2) / ((g + 2)(g + 3)^(1/2)) = width (Karras et al. 2024, eq. 126).

    Raises:
        ValueError: no exponent >= 0 gives it.
    """
    if not 0 < width <= 12**-0.5:
        raise ValueError("a relative width lies in (0, 0.288]")
    low, high = 0.0, 1.0

    def of(g: float) -> float:
        return math.sqrt((g + 1) / (g + 3)) / (g + 2)

    while of(high) > width:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if of(middle) > width else (low, middle)
    return (low + high) / 2
