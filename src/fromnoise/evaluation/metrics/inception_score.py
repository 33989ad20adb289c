"""Inception Score: confidence and diversity of a classifier's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch

from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.metrics.metric import Metric, SampleComparison
from fromnoise.evaluation.statistics import PredictionSums
from fromnoise.registry import register


@register("metric", "inception-score")
class InceptionScore(Metric):
    """exp E KL(p(class | image) || p(class)) of the samples (Salimans et al. 2016), by any classifier."""

    key = "inception_score"
    title = "Inception Score"
    better = "higher"

    def title_for(self, features: str) -> str:
        """Names the classifier where it is not the Inception network."""
        return self.title if features == "inception" else f"{self.title} ({features})"

    def estimate(self, comparison: SampleComparison) -> Estimate | None:
        """The mean over ten parts of the samples; None for features without a classifier."""
        parts = comparison.samples.prediction_parts
        pairs = [reduce(PredictionSums.__add__, parts[i : i + 2]) for i in range(0, len(parts), 2)]  # ten of twenty
        return inception_score(pairs) if pairs else None


def inception_score(parts: Sequence[PredictionSums]) -> Estimate:
    """Mean score of random parts of the samples, with its standard error (Salimans et al. 2016 took ten parts)."""
    scores = Estimate.mean_of(torch.tensor([p.inception_score for p in parts], dtype=torch.float64))
    return Estimate(scores.value, scores.error, sum(p.n for p in parts))
