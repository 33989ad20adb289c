"""How the time of a training image is drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import Schedule


class TimeSampler(ABC):
    """Draws u in [0, 1), and makes a time of it; some follow what training tells them."""

    @abstractmethod
    def draw(self, noise: Noise) -> Tensor:
        """Numbers u for the positions, float64 (B,)."""

    def place(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The times at ``u``, float64 (B,): ``Schedule.time_from_uniform`` unless it has a way of its own."""
        return schedule.time_from_uniform(u)

    def weight(self, u: Tensor) -> Tensor:
        """By what a loss at ``u`` is multiplied so that its mean is that of uniform u, float64 (B,)."""
        return torch.ones_like(u)

    def observe(self, u: Tensor, losses: Tensor) -> None:
        """Be told the unweighted losses (B,) at ``u``; most need not know."""
        return None

    def state(self) -> dict[str, Tensor]:
        """What observing has changed."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from such a state."""
        return None


class Uniform(TimeSampler):
    """Independent and uniform."""

    def draw(self, noise: Noise) -> Tensor:
        """U from (seed, position)."""
        return noise.uniform(Stream.TIME)


class Stratified(TimeSampler):
    """Uniform, and even over any run of positions, however it is cut into batches and processes.

    u = frac(offset + position / golden ratio): a Kronecker sequence; over n neighbours its discrepancy is O(log n / n).
    """

    def draw(self, noise: Noise) -> Tensor:
        """U from (seed, position)."""
        offset = Noise(noise.seed, noise.ids.new_zeros(1)).uniform(Stream.TIME)
        # the product is taken modulo 2^64 in integers, so that late positions keep all their digits
        turn = noise.ids.cpu() * -7046029254386353131  # 2^64 / golden ratio, as a signed 64-bit number
        return (((turn >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53 + offset).frac()


class LogNormal(Stratified):
    """ln(sigma/alpha) normal, and as even (Karras et al. 2022, table 1).

    Its losses are not weighted back: which levels are drawn often is what it chooses.
    """

    def __init__(self, mean: float = -1.2, deviation: float = 1.2) -> None:
        """Draw ln(sigma/alpha) from N(``mean``, ``deviation``^2); beyond the schedule, at its nearest end."""
        self.mean, self.deviation = mean, deviation

    def place(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The times of the normal quantiles, not below a table's first step nor at the clean image."""
        logsnr = -2 * (self.mean + self.deviation * torch.special.ndtri(u))
        return schedule.time(logsnr).clamp(min=1 / (schedule.steps or 1_000_000))


class Importance(TimeSampler):
    """In proportion to sqrt(E[L^2]) of the last losses at each step (Nichol and Dhariwal 2021, eq. 18).

    Even, and uniform until every step has been seen ``memory`` times.
    """

    def __init__(self, steps: int, memory: int = 10, even: float = 1e-3) -> None:
        """Begin without losses.

        Args:
            steps: equal parts of [0, 1), one a step of a table.
            memory: losses that the average of a step reaches back to.
            even: share that stays uniform.
        """
        self.memory, self.even, self._base = memory, even, Stratified()
        self._squares = torch.zeros(steps, dtype=torch.float64)
        self._seen = torch.zeros(steps, dtype=torch.float64)

    def _probability(self) -> Tensor:
        """Of the parts, float64 (steps,)."""
        steps = len(self._squares)
        if float(self._seen.min()) < self.memory:
            return torch.full((steps,), 1 / steps, dtype=torch.float64)
        root = self._squares.sqrt()
        return (1 - self.even) * root / root.sum() + self.even / steps

    def _place(self, u: Tensor) -> Tensor:
        return (u * len(self._squares)).long()

    def draw(self, noise: Noise) -> Tensor:
        """The even numbers of ``Stratified``, through the inverse of the cumulated probabilities."""
        p = self._probability()
        ends = torch.cat([p.new_zeros(1), p.cumsum(0)])
        u = self._base.draw(noise) * ends[-1]
        part = (torch.searchsorted(ends, u, right=True) - 1).clamp(0, len(p) - 1)
        within = ((u - ends[part]) / p[part]).clamp(0, 1 - 1e-9)
        return (part + within) / len(p)

    def weight(self, u: Tensor) -> Tensor:
        """1/(steps probability)."""
        return 1 / (len(self._squares) * self._probability()[self._place(u)])

    def observe(self, u: Tensor, losses: Tensor) -> None:
        """Move the mean squares of the steps that were drawn."""
        place, zeros = self._place(u), torch.zeros_like(self._squares)
        count = zeros.index_add(0, place, torch.ones_like(u))
        mean = zeros.index_add(0, place, losses.to("cpu", torch.float64) ** 2) / count.clamp(min=1)
        self._seen += count
        rate = count / torch.minimum(self._seen, count.clamp(min=self.memory)).clamp(min=1)
        self._squares += rate * (mean - self._squares)

    def state(self) -> dict[str, Tensor]:
        """Mean squares, and how often each step was seen."""
        return {"squares": self._squares, "seen": self._seen}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from them."""
        self._squares, self._seen = state["squares"].clone(), state["seen"].clone()
