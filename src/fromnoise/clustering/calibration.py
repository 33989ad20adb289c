"""Calibrated probabilities of clusters: a temperature from labels, repeats or resampling, and its check.

A temperature T leaves every assignment as it is and makes its log odds smaller or larger:

    q_c(T) proportional to q_c^(1/T)

Responsibilities are too confident for several reasons, and there are three estimates of T:

- ``temperature_from_labels``: images whose cluster is known, and was not used for their q (temperature scaling: Guo et
  al. 2017). It corrects all causes: noise of the bounds, an overconfident model, evidence that is counted twice.
- ``temperature_from_repeats``: without labels, assessments of the same images by independent noise and diffusion steps.
  It corrects the noise of the bounds alone: that a second assessment agrees does not make it right.
- ``temperature_of_mean``: without labels, a mean probability that is known otherwise, such as the agreement with
  clusters that were found from a random half of the images.

``Reliability`` is the check, where true labels are known: the expected calibration error and its table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.clustering.scores import match_classes

BINS = 15
MAX_TEMPERATURE = 100.0
_SIMULATIONS, _SEED = 200, 0  # of the ECE of a calibrated predictor


def tempered(q: Tensor, temperature: float) -> Tensor:
    """Responsibilities to the power 1 / temperature, float64 (N, Q); values above 1 make them less confident."""
    return torch.softmax(_log(q) / temperature, 1)


def temperature_from_labels(q: Tensor, labels: Tensor) -> float:
    """The temperature at which the mean probability of the assigned clusters is the fraction of them that is right.

    The fraction is (right + 1/2) / (n + 1), so that a few labels that are all right prove no certainty (Jeffreys'
    prior: Brown et al. 2001). The minimum of the cross-entropy, the usual choice, depends on the few images that are
    wrong with near certainty: with 50 and 100 labels of digits its calibration error was the larger one.

    Args:
        q: responsibilities that the labels had no part in, (n, Q).
        labels: known clusters, int64 (n,).

    Raises:
        ValueError: there are no labels.
    """
    if not len(labels):
        raise ValueError("a temperature needs at least one label")
    right = float((q.argmax(1) == labels).sum())
    return temperature_of_mean(q, (right + 0.5) / (len(labels) + 1))


def temperature_of_mean(q: Tensor, mean: float) -> float:
    """The temperature, from 0.01 to 100, at which the mean probability of the assigned clusters is ``mean``.

    Args:
        q: responsibilities, (n, Q).
        mean: in (0, 1).
    """
    assigned = q.argmax(1, keepdim=True)
    low, high = -math.log(MAX_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(50):
        middle = (low + high) / 2
        above = float(tempered(q, math.exp(middle)).gather(1, assigned).mean()) > mean
        low, high = (middle, high) if above else (low, middle)
    return math.exp(low)


def temperature_from_repeats(assessments: Sequence[Tensor]) -> float:
    """The temperature that corrects the noise of the bounds, from three or more assessments of the same images.

    An assessment softmax(log pi - L - noise) is to predict the responsibilities q* without noise. These are unknown,
    and those of a second assessment are no substitute: the noise biases them as well. Two further assessments b and c
    give the bias, as the noise of their mean has half of the variance (Quenouille's jackknife):

        q* = 2 q((b + c) / 2) - (q(b) + q(c)) / 2    up to terms of the fourth order in the noise

    T minimizes the cross-entropy of the tempered assessment a with this target, over all choices of a, b and c. It is
    at least 1, as noise can only make the evidence weaker than it looks. That two assessments often agree is no measure
    of this: bounds without any noise agree always, and are not certain for that.

    Args:
        assessments: log pi_c - L_c by independent noise and steps, up to a constant of the image, each (N, Q).

    Raises:
        ValueError: there are fewer than three.
    """
    if len(assessments) < 3:
        raise ValueError("a temperature from repeats needs three assessments")
    pairs = []
    for a, predictor in enumerate(assessments):
        q = torch.softmax(predictor.double(), 1)
        for b, c in combinations([x.double() for i, x in enumerate(assessments) if i != a], 2):
            mean = torch.softmax((b + c) / 2, 1)
            pairs.append((q, 2 * mean - (torch.softmax(b, 1) + torch.softmax(c, 1)) / 2))
    q, targets = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
    return _least_cross_entropy(q, targets)


def _least_cross_entropy(q: Tensor, targets: Tensor) -> float:
    """The T from 1 with the least mean cross-entropy of tempered q with targets; it is convex in 1/T."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return float(-(targets * _log(tempered(q, math.exp(log_temperature)))).sum(1).mean())

    found: Any = minimize_scalar(loss, bounds=(0.0, math.log(MAX_TEMPERATURE)), method="bounded")
    return 1.0 if loss(0.0) <= float(found.fun) else math.exp(float(found.x))


def _log(p: Tensor) -> Tensor:
    return p.double().clamp(min=1e-300).log()


@dataclass(frozen=True)
class Reliability:
    """How often assignments are right, beside their probabilities.

    Attributes:
        ece: expected calibration error: mean of |fraction right - mean probability| over bins of equally many images
            (Naeini et al. 2015; equal-mass bins: Nguyen and O'Connor 2015).
        by_chance: the same of a predictor whose probabilities are right, with the same images, by simulation.
        by_chance_95: in 95 % of the simulations it is smaller than this.
        images: number of images, n.
        bins: (images, mean probability, fraction right) of each bin, by probability.
    """

    ece: float
    by_chance: float
    by_chance_95: float
    images: int
    bins: tuple[tuple[int, float, float], ...]

    @staticmethod
    def measure(probability: Tensor, right: Tensor, bins: int = BINS) -> Reliability:
        """Measure probabilities (N,) of assignments that are right or not, bool (N,).

        Raises:
            ValueError: there are no images.
        """
        if not len(probability):
            raise ValueError("the calibration error needs at least one image")
        order = probability.double().argsort(stable=True)
        p, hit = probability.double()[order].numpy(), right[order].double().numpy()
        starts = np.unique(np.linspace(0, len(p), min(bins, len(p)) + 1).round().astype(int))[:-1]
        counts = np.diff([*starts, len(p)])

        def gaps(hits: np.ndarray) -> np.ndarray:
            return np.abs(np.add.reduceat(hits - p, starts, axis=-1)).sum(-1) / len(p)

        draws = np.random.default_rng(_SEED)
        chance = np.array([gaps((draws.random(len(p)) < p).astype(np.float64)) for _ in range(_SIMULATIONS)])
        means = np.add.reduceat(p, starts) / counts, np.add.reduceat(hit, starts) / counts
        rows = tuple(zip(counts.tolist(), means[0].tolist(), means[1].tolist(), strict=True))
        return Reliability(float(gaps(hit)), float(chance.mean()), float(np.quantile(chance, 0.95)), len(p), rows)

    @staticmethod
    def of_clusters(q: Tensor, clusters: Tensor, labels: Tensor) -> Reliability:
        """Measure the probability of the assigned cluster against true classes.

        Args:
            q: responsibilities, (N, Q).
            clusters: assigned clusters of the N images, int64 (N,); classes are matched with them one to one.
            labels: true classes, int64 (N,).
        """
        right = match_classes(clusters, labels)[clusters] == labels
        return Reliability.measure(q.gather(1, clusters[:, None]).flatten(), right)

    def json(self) -> dict[str, Any]:
        """The same for a JSON file."""
        return dict(self.__dict__) | {"bins": [list(row) for row in self.bins]}
