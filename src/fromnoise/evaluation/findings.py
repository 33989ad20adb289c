"""Findings: problems of data, runs and samples, each with a remedy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fromnoise.evaluation.estimate import Estimate

SIGNIFICANT = 3.0
"""Standard errors above which a difference is reported."""
MIN_RATE_DIFFERENCE = 0.02
"""Difference of two rates below which nothing is reported."""


@dataclass(frozen=True)
class Finding:
    """A problem.

    Attributes:
        key: name for programs.
        problem: what is wrong, with the figures that show it.
        remedy: what to do about it.
    """

    key: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}"


def exceeds(samples: Estimate, real: Estimate) -> bool:
    """Whether the rate of the samples is above the real one by a significant and relevant amount.

    The error is at least one image of each set, since a rate of 0 has a binomial error of 0.
    """
    error = math.hypot(samples.error, real.error, 1 / samples.n, 1 / real.n)
    return samples.value - real.value > max(SIGNIFICANT * error, MIN_RATE_DIFFERENCE)
