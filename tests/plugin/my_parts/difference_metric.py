"""A metric."""

import math

import fromnoise
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.metrics import Metric


@fromnoise.register("metric", "mean-difference")
class MeanDifference(Metric):
    """Mean difference of the features of samples and training images."""

    key = "mean_difference"
    title = "mean difference"
    better = ""

    def estimate(self, comparison):
        """The difference, without an error."""
        samples, real = comparison.samples.moments, comparison.reference.moments
        return Estimate(float((samples.mean - real.mean).mean()), math.nan, samples.n)
