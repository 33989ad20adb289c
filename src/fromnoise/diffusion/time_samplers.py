"""How the time t of a training image is drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import Schedule
from fromnoise.registry import register


class TimeSampler(ABC):
    """Draws u in [0, 1) for each training image and maps it to a time; some adapt to the observed losses."""

    @abstractmethod
    def sample(self, noise: Noise) -> Tensor:
        """u for the positions of ``noise``, float64 (B,)."""  # noqa: D403

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The times at ``u``, float64 (B,): ``Schedule.time_from_uniform`` by default."""
        return schedule.time_from_uniform(u)

    def weight(self, u: Tensor) -> Tensor:
        """The importance weight of a loss at ``u``, with which its mean is that of uniform u, float64 (B,)."""
        return torch.ones_like(u)

    def update(self, u: Tensor, losses: Tensor) -> None:
        """Adapt to the unweighted losses (B,) at ``u``; most samplers do not."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """What ``update`` has changed."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state."""
        return None


@register("time_sampler", "uniform")
class Uniform(TimeSampler):
    """Independent and uniform."""

    def sample(self, noise: Noise) -> Tensor:
        """u from (seed, position)."""  # noqa: D403
        return noise.uniform(Stream.TIME)


@register("time_sampler", "stratified")
class Stratified(TimeSampler):
    """Uniform, and evenly spread over any run of positions, however it is divided into batches and processes.

    u = frac(offset + position / golden ratio): a Kronecker sequence; its discrepancy over n neighbours is O(log n / n).
    """

    def sample(self, noise: Noise) -> Tensor:
        """u from (seed, position)."""  # noqa: D403
        offset = Noise(noise.seed, noise.ids.new_zeros(1)).uniform(Stream.TIME)
        # the product is taken modulo 2^64 in integers, so that late positions keep all their digits
        turn = noise.ids.cpu() * -7046029254386353131  # 2^64 / golden ratio, as a signed 64-bit number
        return (((turn >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53 + offset).frac()


@register("time_sampler", "lognormal")
class LogNormal(Stratified):
    """ln(sigma/alpha) ~ N(mean, std^2), stratified (Karras et al. 2022, table 1), with a share of uniform times.

    A normal distribution of small deviation leaves the highest noise levels, from which sampling starts, nearly
    untrained; the share of uniform times visits them.

    The losses are not reweighted: the distribution of noise levels is a choice of this sampler.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2, uniform: float = 0.0) -> None:
        """Set the normal distribution; beyond the ends of the schedule the nearest end is taken.

        Args:
            mean: of ln(sigma/alpha).
            std: standard deviation of ln(sigma/alpha).
            uniform: probability of a time that is uniform in t instead.

        Raises:
            ValueError: the standard deviation is not positive, or the probability not in [0, 1).
        """
        if not std > 0:
            raise ValueError(f"std={std} must be positive")
        if not 0 <= uniform < 1:
            raise ValueError(f"uniform={uniform} must be a probability below 1")
        self.mean, self.std, self.uniform = mean, std, uniform

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The times of the normal quantiles, at least the first step of a beta schedule and never the clean image."""
        normal = (u - self.uniform) / (1 - self.uniform)
        logsnr = -2 * (self.mean + self.std * torch.special.ndtri(normal.clamp(0, 1)))
        times = schedule.time_from_logsnr(logsnr).clamp(min=1 / (schedule.steps or 1_000_000))
        if self.uniform:
            uniform_times = schedule.time_from_uniform((u / self.uniform).clamp(max=1 - 1e-9))
            times = torch.where(u < self.uniform, uniform_times, times)
        return times


@register("time_sampler", "times")
class GivenTimes(Stratified):
    """Given times for a share of the images, in turns, and stratified ones in (0, 1] for the others."""

    def __init__(self, times: tuple[float, ...] = (1.0,), share: float = 0.75) -> None:
        """Set the times.

        Args:
            times: the given times t, each in (0, 1].
            share: of the images that have one of them, in [0, 1].

        Raises:
            ValueError: an option is out of range.
        """
        if not times or not all(0 < t <= 1 for t in times) or not 0 <= share <= 1:
            raise ValueError(f"times={list(times)} must be times in (0, 1], and share={share} lie in [0, 1]")
        self.times, self.share = times, share

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        """``times`` where u < share, in equal parts; the rest of [0, 1) is spread over all times."""
        given = torch.tensor(self.times, dtype=torch.float64)
        index = (u / max(self.share, 1e-9) * len(given)).long().clamp(0, len(given) - 1)
        other = schedule.time_from_uniform(((u - self.share) / max(1 - self.share, 1e-9)).clamp(0, 1 - 1e-12))
        return torch.where(u < self.share, given[index], other)


@register("time_sampler", "importance")
class Importance(TimeSampler):
    """In proportion to sqrt(E[L^2]) of the recent losses at each step (Nichol and Dhariwal 2021, eq. 18).

    Stratified, and uniform until every step has been seen ``memory`` times.
    """

    def __init__(self, timesteps: int = 1000, memory: int = 10, uniform_share: float = 1e-3) -> None:
        """Start without losses.

        Args:
            timesteps: equal parts of [0, 1), one for each step of a beta schedule.
            memory: number of losses in the running mean of a step.
            uniform_share: probability of a uniform draw.

        Raises:
            ValueError: an option is out of range.
        """
        if memory < 1 or not 0 < uniform_share <= 1:
            raise ValueError(f"memory={memory} must be 1 or more, and uniform_share={uniform_share} in (0, 1]")
        self.memory, self.uniform_share, self._base = memory, uniform_share, Stratified()
        self._squares = torch.zeros(timesteps, dtype=torch.float64)
        self._seen = torch.zeros(timesteps, dtype=torch.float64)

    def _probability(self) -> Tensor:
        """Probability of each step, float64 (timesteps,)."""
        steps = len(self._squares)
        if float(self._seen.min()) < self.memory:
            return torch.full((steps,), 1 / steps, dtype=torch.float64)
        root = self._squares.sqrt()
        return (1 - self.uniform_share) * root / root.sum() + self.uniform_share / steps

    def _index(self, u: Tensor) -> Tensor:
        return (u * len(self._squares)).long()

    def sample(self, noise: Noise) -> Tensor:
        """The stratified u through the inverse of the cumulative probabilities."""
        p = self._probability()
        ends = torch.cat([p.new_zeros(1), p.cumsum(0)])
        u = self._base.sample(noise) * ends[-1]
        part = (torch.searchsorted(ends, u, right=True) - 1).clamp(0, len(p) - 1)
        within = ((u - ends[part]) / p[part]).clamp(0, 1 - 1e-9)
        return (part + within) / len(p)

    def weight(self, u: Tensor) -> Tensor:
        """1 / (timesteps * probability)."""
        return 1 / (len(self._squares) * self._probability()[self._index(u)])

    def update(self, u: Tensor, losses: Tensor) -> None:
        """Update the mean squares of the steps that were drawn."""
        index, zeros = self._index(u), torch.zeros_like(self._squares)
        count = zeros.index_add(0, index, torch.ones_like(u))
        mean = zeros.index_add(0, index, losses.to("cpu", torch.float64) ** 2) / count.clamp(min=1)
        self._seen += count
        rate = count / torch.minimum(self._seen, count.clamp(min=self.memory)).clamp(min=1)
        self._squares += rate * (mean - self._squares)

    def state_dict(self) -> dict[str, Tensor]:
        """Mean squares, and how often each step was seen."""
        return {"squares": self._squares, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state."""
        self._squares, self._seen = state["squares"].clone(), state["seen"].clone()
