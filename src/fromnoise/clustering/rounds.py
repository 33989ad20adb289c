"""What an E-step found, and the change of the objective by the step of EM that caused it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fromnoise.evaluation.estimate import Estimate


@dataclass(frozen=True)
class ChangeByStep:
    """The change of the objective between two E-steps, by the step of EM that caused it.

    In the order in which they happen; each part changes what it names and keeps the rest, so that the four add up to
    the change exactly. The noise of an image is the same in both E-steps, and the errors are those of paired
    differences.

    Attributes:
        weights: by the M-step of the mixture weights: at least 0 with ``concentration`` 1, on average over the images.
        moves: by reseeding and split-and-merge, which change q, the encoder term and the weights; often below 0, as the
            network has not been trained on the new clusters.
        training: by the training of the network, at constant q and weights. It includes what training would have
            gained without any E-step.
        e_step: by the new responsibilities, under the new network. At temperature 1 it is KL(q_old || q_new), at least
            0 for every image, also where the new q only follows other errors of the estimates:
            ``Round.e_step_gain`` is free of that.
    """

    weights: Estimate
    moves: Estimate
    training: Estimate
    e_step: Estimate

    @staticmethod
    def from_objectives(
        start: Tensor, weights: Tensor, moves: Tensor, training: Tensor, e_step: Tensor
    ) -> ChangeByStep:
        """From the objective of each image after each of the steps, (N,) each; ``start`` is that of the last E-step."""
        after = (start, weights, moves, training, e_step)
        parts = [Estimate.mean_of(b - a) for a, b in zip(after[:-1], after[1:], strict=True)]
        return ChangeByStep(*parts)

    def json(self) -> dict[str, object]:
        """The same for a JSON file."""
        return {k: v.json() for k, v in self.__dict__.items()}


@dataclass(frozen=True)
class Round:
    """Results of one E-step.

    Attributes:
        number: from 1.
        step: number of optimizer steps before it.
        temperature: of the responsibilities.
        objective: mean over the images of F(q) + encoder_weight sum_c q_c log p(s | c), nats, by the estimates that
            gave q. It is no bound: these estimates favour their own q, and the start saw the same pixels.
        change: of the objective since the previous round, with the same noise for each image; None in the first round.
        change_by: the same by its causes; None in the first round, and in the first after a state of an older version.
        bound: mean of F(q) over at most ``BOUND_IMAGES`` evenly spaced images, nats, by the model alone and with noise
            that is independent of q: an unbiased estimate of a lower bound on the mean of log p(x_0), or with
            ``min_time`` t > 0 of -KL(q(x_t | x_0) || p(x_t)), which is the mean of log p(x_t) plus the entropy of the
            noise.
        e_step_gain: the bound with the new q minus that with the q before this E-step, under the same network, of the
            same images with the same noise, each q on its own most likely clusters (``truncate``). Below 0 if the new q
            fits these images worse.
        reassigned: fraction of the images whose most likely cluster changed.
        confidence: mean probability of the most likely cluster.
        weights: mixture weights.
        reseeded: empty clusters that were given a half of the largest one.
        split_merged: (a, b, c) where cluster b was merged into a, and then took a half of c.
    """

    number: int
    step: int
    temperature: float
    objective: Estimate
    change: Estimate | None
    change_by: ChangeByStep | None
    bound: Estimate
    e_step_gain: Estimate
    reassigned: float
    confidence: float
    weights: tuple[float, ...]
    reseeded: tuple[int, ...]
    split_merged: tuple[tuple[int, int, int], ...] = ()

    def json(self) -> dict[str, object]:
        """The same for a JSON file."""
        return {k: v.json() if isinstance(v, Estimate | ChangeByStep) else v for k, v in self.__dict__.items()}
