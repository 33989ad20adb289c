"""Inception Score: confidence and diversity of a classifier's predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from fromnoise.evaluation.estimate import Estimate, standard_error
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
        samples = comparison.samples
        parts = samples.prediction_parts
        pairs = [reduce(PredictionSums.__add__, parts[i : i + 2]) for i in range(0, len(parts), 2)]  # ten of twenty
        if not pairs or samples.probabilities is None:
            return None
        score = inception_score(pairs)
        return replace(score, error=score_error(samples.probabilities, score.n, samples.strata))


def score_error(probabilities: Tensor, n: int, strata: Tensor | None = None) -> float:
    """Standard error of the score over sets of n samples, by its influence function score (KL_i - mean KL).

    Ten parts alone give an error of nine degrees of freedom, of which two cover too rarely.

    Args:
        probabilities: of the samples or of the first of them, (N, K).
        n: number of samples.
        strata: as of ``standard_error``.
    """
    p = probabilities.double()
    divergence = (torch.special.xlogy(p, p) - torch.special.xlogy(p, p.mean(0))).sum(1)
    score = math.exp(float(divergence.mean()))
    return score * standard_error(divergence, strata) * math.sqrt(len(p) / n)


def inception_score(parts: Sequence[PredictionSums]) -> Estimate:
    """Mean score of random parts of the samples, with its standard error (Salimans et al. 2016 took ten parts)."""
    scores = Estimate.mean_of(torch.tensor([p.inception_score for p in parts], dtype=torch.float64))
    return Estimate(scores.value, scores.error, sum(p.n for p in parts))
