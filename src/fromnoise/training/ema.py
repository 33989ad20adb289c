"""The weights that draw: moving averages of those that learn, or those of the best epoch."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from fromnoise.config import EMAConfig


class BestEpoch:
    """The weights at the end of the epoch whose mean loss was least, as the tutorial keeps them (S1)."""

    def __init__(self, steps: Fraction, live: dict[str, Tensor]) -> None:
        """Keep nothing yet.

        Args:
            steps: of an epoch; it need not be whole.
            live: the weights that learn, by name.
        """
        self._steps, self._live = steps, live
        self.weights: dict[str, Tensor] = {}
        self._sum, self._count, self._least, self._ended = 0.0, 0, math.inf, 0

    def update(self, step: int, loss: float) -> None:
        """Take in step ``step`` (from 1) and its loss; where an epoch ends, its weights if none were better."""
        self._sum, self._count = self._sum + loss, self._count + 1
        if step // self._steps == self._ended:  # not of the step before, which may have been dropped
            return
        mean = self._sum / self._count
        self._sum, self._count, self._ended = 0.0, 0, int(step // self._steps)
        if mean < self._least:
            self._least = mean
            self.weights = {name: p.detach().clone() for name, p in self._live.items()}

    def state(self) -> dict[str, Tensor]:
        """What is kept, and what is known of the running epoch."""
        known = torch.tensor([self._sum, self._count, self._least, self._ended], dtype=torch.float64)
        return {"known": known} | {f"best.{name}": t for name, t in self.weights.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from such a state."""
        self._sum, count, self._least, ended = state["known"].tolist()
        self._count, self._ended = int(count), int(ended)
        kept = {name: state.get(f"best.{name}") for name in self._live}
        self.weights = {name: t.to(self._live[name]) for name, t in kept.items() if t is not None}


class EMA:
    """Exponential and power-function moving averages of a network's parameters, or its best epoch."""

    def __init__(self, recipe: EMAConfig, net: nn.Module, epoch: Fraction = Fraction(1)) -> None:
        """Start every average at the current weights; ``epoch`` is how many steps one has."""
        self.recipe = recipe
        self._live = {name: p for name, p in net.named_parameters()}
        self._best = BestEpoch(epoch, dict(self._live)) if recipe.best_epoch else None
        count = len(recipe.decays) + len(recipe.widths)
        self.tracks = [{name: p.detach().clone() for name, p in self._live.items()} for _ in range(count)]

    def factors(self, step: int) -> list[float]:
        """Share of the old average that is kept after step ``step`` (from 1), one for each."""
        warm = [min(d, (1 + step) / (10 + step)) for d in self.recipe.decays]
        return warm + [(1 - 1 / step) ** (power(w) + 1) for w in self.recipe.widths]

    @torch.no_grad()
    def update(self, step: int, loss: float) -> None:
        """Take in the weights after step ``step`` (from 1), and that step's loss."""
        if self._best is not None:
            self._best.update(step, loss)
        live: list[Tensor] = list(self._live.values())
        for track, keep in zip(self.tracks, self.factors(step), strict=True):
            torch._foreach_lerp_(list(track.values()), live, 1 - keep)

    @property
    def kept(self) -> bool:
        """Whether other weights than the live ones draw."""
        return bool(self.tracks or (self._best is not None and self._best.weights))

    def weights(self, which: int = 0) -> dict[str, Tensor]:
        """The parameters of the best epoch, else of average ``which``; the live ones if neither is kept."""
        if self._best is not None and self._best.weights:
            return self._best.weights
        return self.tracks[which] if self.tracks else {name: p.detach() for name, p in self._live.items()}

    def state(self) -> dict[str, Tensor]:
        """All that is kept, as ``NUMBER.PARAMETER`` for an average."""
        tracks = {f"{i}.{name}": t for i, track in enumerate(self.tracks) for name, t in track.items()}
        return tracks | (self._best.state() if self._best is not None else {})

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from such a state."""
        for i, track in enumerate(self.tracks):
            for name, t in track.items():
                t.copy_(state[f"{i}.{name}"])
        if self._best is not None:
            self._best.load(state)


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
