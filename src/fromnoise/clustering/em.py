"""Variational EM: a loop whose images have cluster labels, which an E-step revises a few times during the run.

The M-step is ordinary training: each image is conditioned on a cluster sampled from its responsibilities q. At a few
points of the budget an E-step computes new responsibilities from the bounds of the averaged model. ``EMState`` and the
loop's own state are everything that a resumed run needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.clustering.expectation import BOUND_IMAGES, BOUND_STEPS, EStep, evenly_spaced
from fromnoise.clustering.given_labels import with_given_labels
from fromnoise.clustering.rounds import ChangeByStep, Round
from fromnoise.clustering.split_merge import Responsibilities, reseed_empty, split_and_merge
from fromnoise.config import ClusteringConfig
from fromnoise.data import Images
from fromnoise.diffusion.likelihood.code_length import StepProposal
from fromnoise.diffusion.likelihood.e_step import EStepConfig, mixture_elbo, mixture_weights, responsibilities, truncate
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.evaluation.estimate import Estimate
from fromnoise.model import Model
from fromnoise.training.loop import StepReport, TrainingLoop


@dataclass
class EMState:
    """The variables of EM.

    Attributes:
        q: responsibilities, float64 (N, Q).
        weights: mixture weights pi, float64 (Q,).
        rounds: number of E-steps done.
        proposal: probabilities of the diffusion steps in E-steps, (T,); empty before the first.
        objective: objective of each image at the last E-step, nats, (N,); empty before the first.
        after_weights: the same after the M-step of the weights that followed, (N,); empty before the first E-step, and
            in states of older versions.
        after_moves: the same after the split-and-merge moves that followed, (N,); empty as ``after_weights``.
        initial: most likely clusters before the first E-step, int64 (N,).
        nats: bounds L_c found so far by an unfinished E-step, float64 (n, Q).
        encoder_nats: -encoder_weight log p(s | c), up to a constant of the image, (N, Q).
    """

    q: Tensor
    weights: Tensor
    rounds: int
    proposal: Tensor
    objective: Tensor
    after_weights: Tensor
    after_moves: Tensor
    initial: Tensor
    nats: Tensor
    encoder_nats: Tensor

    @staticmethod
    def from_responsibilities(q: Tensor, config: ClusteringConfig) -> EMState:
        """The state before the first E-step."""
        empty, weights = torch.empty(0, dtype=torch.float64), mixture_weights(q, config.concentration)
        encoder_nats = -config.encoder_weight * encoder_log_likelihood(q)
        return EMState(q, weights, 0, empty, empty, empty, empty, q.argmax(1), q[:0], encoder_nats)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to save."""
        return {k: v for k, v in self.__dict__.items() if isinstance(v, Tensor)}


def encoder_log_likelihood(q: Tensor) -> Tensor:
    """Log-likelihood of the initial assignment s of each image under each cluster, nats, float64 (N, Q).

    log p(s | c) = log p(c | s) - log p(c), up to a constant of the image.

    The E-step adds ``encoder_weight`` w times this to -L_c, as if s were a second observation that is independent of
    the pixels given the cluster. It is not independent: s is computed from the same pixels, which are then counted
    twice, and the objective is not a lower bound on log p(x_0). It is one on log sum_c pi_c p_c(x_0) r_c(x_0)^w with
    r_c = p(c | s) / p(c), a product of experts (Hinton 2002) whose normalization sum_c pi_c E_{p_c}[r_c^w] is left out
    (1 to Q for w = 1 and calibrated s). With clusters of equal size it can exceed log p(x_0) by up to w log Q. At
    weight 0 the initial assignment is a starting point and nothing else.

    Args:
        q: p(c | s), the initial responsibilities, (N, Q).
    """
    return (q.clamp(min=1e-6) / q.mean(0).clamp(min=1e-6)).log()


class EM:
    """Trains a mixture: yields the loop's reports, and a ``Round`` after each E-step.

    The loop's images must have a label each, which this class overwrites.

    Attributes:
        e_step_seconds: duration of the last E-step; None before the first, and after one that was interrupted.
    """

    def __init__(self, loop: TrainingLoop[Model], q: Tensor, given: Tensor | None = None) -> None:
        """Start from initial responsibilities; ``resume`` replaces them by a saved state.

        Args:
            loop: of a model conditioned on Q classes; before its first step.
            q: initial responsibilities, float64 (N, Q).
            given: known clusters that must not change, int64 (N,); -1 where unknown.
        """
        self.loop, self.given = loop, given
        self.config = loop.model.recipe.clustering
        self.images = loop.data.train
        self.state = EMState.from_responsibilities(self._with_given(q), self.config)
        self._stopped = False
        self.e_step_seconds: float | None = None
        self._sample_labels()

    @property
    def e_step_config(self) -> EStepConfig:
        """The number of diffusion steps in an E-step."""
        config = self.config
        return EStepConfig(config.e_step_probes, config.e_step_refine, config.candidates, config.confident)

    @property
    def finished(self) -> bool:
        """Whether the budget is used and all rounds are done."""
        return self.loop.budget_used >= 1 and self.state.rounds >= self.config.rounds

    def stop(self) -> None:
        """End the loop after the current step or batch of images."""
        self._stopped = True
        self.loop.stop()

    def run(self, on_progress: Callable[[float], object] = lambda fraction: None) -> Iterator[StepReport | Round]:
        """Train until the budget is used or ``stop`` is called.

        Args:
            on_progress: called during an E-step with the completed fraction of it.
        """
        steps = self.loop.run()
        while not self._stopped:
            while self._e_step_due() and not self._stopped:
                found = self.run_e_step(on_progress)
                if found is not None:
                    yield found
            report = next(steps, None) if not self._stopped else None
            if report is None:
                return
            yield report

    def _e_step_due(self) -> bool:
        """Whether the budget has reached the next E-step; the last is at its end."""
        done, rounds = self.state.rounds, self.config.rounds
        if done >= rounds:
            return False
        interval = (1 - self.config.warmup) / max(1, rounds - 1)
        return self.loop.budget_used >= (1.0 if done == rounds - 1 else self.config.warmup + interval * done)

    def temperature(self, number: int) -> float:
        """Temperature of E-step ``number``, from 1: geometric between the first and the last."""
        part = (number - 1) / max(1, self.config.rounds - 1)
        return self.config.temperature ** (1 - part) * self.config.temperature_last**part

    def averaged_e_step(self) -> EStep:
        """The E-step of the averaged model as it is now."""
        model = self.loop.ema_model()
        return EStep.from_model(model, self.config.count, self.loop.compute, self.loop.config.seed)

    def run_e_step(self, on_progress: Callable[[float], object] = lambda fraction: None) -> Round | None:
        """The E-step, the M-step of the weights and split-and-merge moves.

        Returns:
            None if it was stopped; the next call continues after the last complete batch.
        """
        state, e_step, start, first = self.state, self.averaged_e_step(), time.monotonic(), len(self.state.nats)
        if not len(state.proposal):
            state.proposal = e_step.pilot_proposal(self.images, self.config.min_time).probability
        proposal, offsets = StepProposal(state.proposal), state.encoder_nats
        for _, bounds in e_step.component_bounds(self.images, proposal, self.e_step_config, len(state.nats), offsets):
            state.nats = torch.cat([state.nats, bounds.nats])
            on_progress(len(state.nats) / len(state.q))
            if self._stopped:
                return None
        nats, number = state.nats + state.encoder_nats, state.rounds + 1
        temperature = self.temperature(number)
        q = self._with_given(responsibilities(nats, state.weights, temperature))
        both = self._cross_fitted(e_step, state.q, q)
        if both is None:
            return None
        self.e_step_seconds = None if first else time.monotonic() - start
        objective = mixture_elbo(q, nats, state.weights)
        change, change_by = None, None
        if len(state.objective):
            change = Estimate.mean_of(objective - state.objective)
        if len(state.after_moves):
            trained = mixture_elbo(state.q, nats, state.weights)
            change_by = ChangeByStep.from_objectives(
                state.objective, state.after_weights, state.after_moves, trained, objective
            )
        after_weights = mixture_elbo(q, nats, mixture_weights(q, self.config.concentration))
        moved = Responsibilities(q, state.encoder_nats)
        reseeded, split_merged = self._move_clusters(moved, nats) if number < self.config.rounds else ((), ())
        new_q = self._with_given(moved.q)
        weights = mixture_weights(new_q, self.config.concentration)
        self.state = EMState(
            new_q,
            weights,
            number,
            state.proposal,
            objective,
            after_weights,
            mixture_elbo(new_q, state.nats + moved.encoder_nats, weights),
            state.initial,
            nats[:0],
            moved.encoder_nats,
        )
        self._sample_labels()
        return Round(
            number,
            self.loop.progress.step,
            temperature,
            Estimate.mean_of(objective),
            change,
            change_by,
            Estimate.mean_of(both[1]),
            Estimate.mean_of(both[1] - both[0]),
            float((q.argmax(1) != state.q.argmax(1)).double().mean()),
            float(q.amax(1).mean()),
            tuple(weights.tolist()),
            reseeded,
            split_merged,
        )

    def _cross_fitted(self, e_step: EStep, before: Tensor, after: Tensor) -> Tensor | None:
        """F of both responsibilities of some images with independent noise, (2, n); None if it was stopped."""
        ids, limit = evenly_spaced(len(self.images), BOUND_IMAGES), self.config.candidates
        both = [truncate(q[ids], limit) for q in (before, after)]
        proposal, parts = StepProposal(self.state.proposal), []
        for part in e_step.cross_fitted_elbo(self.images, ids, both, self.state.weights, proposal, BOUND_STEPS):
            if self._stopped:
                return None
            parts.append(part)
        return torch.cat(parts, 1)

    def assign(self, images: Images) -> Tensor:
        """Responsibilities of other images by the model alone, without an encoder term, float64 (M, Q)."""
        proposal, temperature = StepProposal(self.state.proposal), self.config.temperature_last
        batches = self.averaged_e_step().component_bounds(images, proposal, self.e_step_config)
        return torch.cat([responsibilities(bounds.nats, self.state.weights, temperature) for _, bounds in batches])

    def _with_given(self, q: Tensor) -> Tensor:
        return q if self.given is None else with_given_labels(q, self.given)

    def _move_clusters(
        self, moved: Responsibilities, nats: Tensor
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int, int], ...]]:
        """Reseed empty clusters, then split and merge; clusters with given labels take no part."""
        fixed = set() if self.given is None else set(self.given[self.given >= 0].tolist())
        seed, config = self.loop.config.seed, self.config
        return reseed_empty(moved, self.images, config.min_weight, fixed, seed), split_and_merge(
            moved, nats, self.images, config.split_merge, config.encoder_weight, fixed, seed
        )

    def _sample_labels(self) -> None:
        """Sample the cluster that each image is conditioned on until the next E-step."""
        ids = torch.arange(len(self.state.q))
        u = Noise(self.loop.config.seed, ids).uniform(Stream.TRAINING_CLUSTER, self.state.rounds)
        labels = torch.searchsorted(self.state.q.cumsum(1).contiguous(), u[:, None]).flatten()
        assert self.images.labels is not None
        self.images.labels.copy_(labels.clamp(max=self.config.count - 1))

    # ---- state

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the state that a resumed run needs besides the loop's."""
        return {f"em.{k}": v for k, v in self.state.tensors().items()}

    def resume(self, tensors: dict[str, Tensor], rounds: int) -> None:
        """Restore the state after ``rounds`` E-steps; the loop restores its own."""
        empty = torch.empty(0, dtype=torch.float64)
        older = {f"em.{k}": empty for k in ("after_weights", "after_moves")}  # which version 0.1 did not save
        saved = older | tensors
        self.state = EMState(rounds=rounds, **{k: saved[f"em.{k}"].clone() for k in self.state.tensors()})
        self._sample_labels()
