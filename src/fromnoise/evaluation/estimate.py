"""Measured numbers with their standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Attributes:
        value: the number.
        error: its standard error; 0 if it is exact, nan if it could not be estimated.
        n: sample size.
    """

    value: float
    error: float
    n: int

    @staticmethod
    def mean_of(values: Tensor) -> Estimate:
        """Mean of numbers (N,) with the standard error of the mean; nan for a single number."""
        values, n = values.double(), len(values)
        error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
        return Estimate(float(values.mean()), error, n)

    def __str__(self) -> str:
        """Value and error, both with the decimals that give the error two significant digits."""
        if not math.isfinite(self.error) or self.error <= 0:
            return f"{self.value:.4g}"
        decimals = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.value:.{decimals}f} ± {self.error:.{decimals}f}"

    def json(self) -> dict[str, float | int | None]:
        """All attributes as JSON types: nan and infinities become null."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v if math.isfinite(v) else None for k, v in plain.items()}


@dataclass(frozen=True)
class ExtrapolatedEstimate(Estimate):
    """An estimate with a bias of order 1/n.

    Attributes:
        limit: the value extrapolated to an infinite sample.
    """

    limit: float

    def at(self, n: int) -> ExtrapolatedEstimate:
        """The value expected at another sample size: limit + (value - limit) self.n / n."""
        return ExtrapolatedEstimate(self.limit + (self.value - self.limit) * self.n / n, self.error, n, self.limit)


def proportion(hits: Tensor) -> Estimate:
    """Fraction of true elements with its binomial standard error.

    Args:
        hits: bool (N,).
    """
    n = len(hits)
    p = float(hits.double().mean())
    return Estimate(p, math.sqrt(p * (1 - p) / n), n)
