"""What a metric is: one file that declares and registers it; tables, JSON, plots and the doctor follow.

@register("metric", "mean-distance")
class MeanDistance(Metric):
    \"\"\"Distance between the mean features of samples and of real images.\"\"\"

    key = "mean_distance"
    title = "mean distance"
    better = "lower"

    def estimate(self, comparison: SampleComparison) -> Estimate:
        samples, real = comparison.samples.moments, comparison.reference.moments
        return Estimate(float((samples.mean - real.mean).norm()), math.nan, samples.n)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.feature_stats import FeatureStats, SharedResults
from fromnoise.evaluation.findings import Finding


@dataclass(frozen=True)
class SampleComparison(SharedResults):
    """Samples and real training images in one feature space: what a metric is computed from.

    Attributes:
        samples: statistics and vectors of the samples.
        reference: the same of the training images.
    """

    samples: FeatureStats
    reference: FeatureStats


class Metric(ABC):
    """A number that compares samples with real images.

    Attributes:
        key: name in JSON.
        title: column header in tables.
        better: "lower" or "higher"; "" if values near to that of held-out real images are better.
        resampled: what is resampled: the error is the standard deviation over such draws.
        passes: cost, as the number of passes over all pairs of vectors that it adds; 0 if its cost is linear in the
            number of images, or if its result is shared with another metric.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    better: ClassVar[Literal["lower", "higher", ""]]
    resampled: ClassVar[str] = "samples"
    passes: ClassVar[float] = 0.0

    @abstractmethod
    def estimate(self, comparison: SampleComparison) -> Estimate | None:
        """The metric of some samples; None if these features cannot give it."""

    def title_for(self, features: str) -> str:
        """The column header for a feature space."""
        return self.title

    def at_sample_size(self, estimate: Estimate, n: int) -> Estimate | None:
        """The value expected at sample size n, for real images of which there are fewer; None if it is unknown."""
        return estimate if estimate.n == n else None

    def check(self, samples: Estimate, held_out: Estimate) -> Finding | None:
        """What the doctor reports, given the metric of the samples and of held-out real images."""
        return None
