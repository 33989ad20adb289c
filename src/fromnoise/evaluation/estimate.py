"""Measured numbers with their standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
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
    def mean_of(values: Tensor, strata: Tensor | None = None) -> Estimate:
        """Mean of numbers (N,) with the standard error of the mean; nan for a single number.

        Args:
            values: (N,).
            strata: as of ``standard_error``.
        """
        values, n = values.double(), len(values)
        error = standard_error(values, strata) if n > 1 else math.nan
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


def standard_error(values: Tensor, strata: Tensor | None = None) -> float:
    """Standard error of the mean of sampled numbers.

    sqrt(sum_h n_h s_h^2) / n for stratified samples (Cochran 1977, eq. 5.13), with s_h^2 the variance within stratum h:
    the strata do not vary between sets of samples, so differences of their means are no sampling error. Strata of a
    single sample are joined.

    Args:
        values: (N,), N at least 2.
        strata: stratum of each sample, int64 (N,); None for i.i.d. samples.
    """
    values, n = values.double(), len(values)
    if strata is None:
        return float(values.std()) / math.sqrt(n)
    index = stratum_index(strata, n).to(values.device)
    counts = index.bincount().double()
    means = counts.new_zeros(len(counts)).index_add_(0, index, values) / counts
    squares = counts.new_zeros(len(counts)).index_add_(0, index, (values - means[index]).square())
    variances = squares / (counts - 1).clamp(min=1)
    return math.sqrt(float((counts * variances).sum())) / n


def stratum_index(strata: Tensor | None, n: int) -> Tensor:
    """Strata numbered from 0 without gaps, int64 (n,); strata of a single sample are joined.

    Args:
        strata: of each sample, int64 (n,); None for i.i.d. samples, which are one stratum.
        n: number of samples.
    """
    if strata is None:
        return torch.zeros(n, dtype=torch.int64)
    index: Tensor = torch.unique(strata, return_inverse=True)[1]
    single = index.bincount()[index] == 1
    return torch.unique(torch.where(single, int(index.max()) + 1, index), return_inverse=True)[1]


def proportion(hits: Tensor, strata: Tensor | None = None) -> Estimate:
    """Fraction of true elements with its standard error, which is binomial for i.i.d. samples.

    Args:
        hits: bool (N,).
        strata: as of ``standard_error``.
    """
    n = len(hits)
    p = float(hits.double().mean())
    error = math.sqrt(p * (1 - p) / n) if strata is None else standard_error(hits, strata)
    return Estimate(p, error, n)
