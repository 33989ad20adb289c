"""Results of likelihoods: bounds with their parts, both methods, and held-out minus training images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fromnoise.evaluation.estimate import Estimate


@dataclass(frozen=True)
class BoundResult:
    """The variational bound of some images.

    Attributes:
        each: bound of each image in bits/dim, (N,).
        prior: mean of L_T.
        decoder: mean of L_0.
        by_step: mean terms in bins of steps: first step, last step, and bits/dim per step.
        label: mean of -log2 p(k) per dimension, for a model of pseudo-labels.
        autoencoder: means of the parts that an autoencoder adds, by name.
    """

    each: Tensor
    prior: float
    decoder: float
    by_step: list[tuple[int, int, float]]
    label: float = 0.0
    autoencoder: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LikelihoodResult:
    """Negative log-likelihoods of one part of a data set.

    Attributes:
        bound: variational bound of all images.
        flow: probability-flow ODE, of the first images, bits/dim (M,); None if it was not computed.
    """

    bound: BoundResult
    flow: Tensor | None

    def estimates(self) -> dict[str, Estimate]:
        """Means by method: ``bound`` and, if it was computed, ``flow``."""
        known = {"bound": self.bound.each, "flow": self.flow}
        return {name: Estimate.mean_of(each) for name, each in known.items() if each is not None}

    def bound_parts(self) -> dict[str, float]:
        """Prior, steps and decoder of the bound, and the pseudo-label if there is one, in bits/dim."""
        prior, decoder, label = self.bound.prior, self.bound.decoder, self.bound.label
        joint = self.bound.autoencoder
        steps = float(self.bound.each.mean()) - prior - decoder - label - sum(joint.values())
        parts = {"prior": prior, "steps": steps, "decoder": decoder}
        return parts | ({"pseudo-label": label} if label else {}) | joint

    def bound_minus_flow(self) -> Estimate | None:
        """Mean difference of the two methods on the same images."""
        return None if self.flow is None else Estimate.mean_of(self.bound.each[: len(self.flow)] - self.flow)

    def json(self) -> dict[str, Any]:
        """Estimates, parts of the bound, and its terms by step."""
        out: dict[str, Any] = {"bound": None, "flow": None}
        out |= {name: e.json() for name, e in self.estimates().items()}
        steps = [{"first": low, "last": high, "bits": bits} for low, high, bits in self.bound.by_step]
        return out | {"parts": self.bound_parts(), "by_step": steps}


def generalization_gaps(held_out: LikelihoodResult, training: LikelihoodResult) -> dict[str, Estimate]:
    """Held-out minus training, by each method that both were measured with; a large gap indicates memorization.

    The i-th image of both parts has the same noise, so the error is that of paired differences where the parts are of
    one size.
    """
    out = {}
    for name, a, b in (
        ("bound", held_out.bound.each, training.bound.each),
        ("flow", held_out.flow, training.flow),
    ):
        if a is None or b is None:
            continue
        if len(a) == len(b):
            out[name] = Estimate.mean_of(a - b)
        else:
            one, other = Estimate.mean_of(a), Estimate.mean_of(b)
            out[name] = Estimate(one.value - other.value, math.hypot(one.error, other.error), min(one.n, other.n))
    return out
