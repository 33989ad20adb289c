"""The loop of expectation and maximisation: a trainer whose images are told clusters, and whose clusters it revises.

The M-step is plain training: each image is told a cluster drawn from its q. At a few points of the budget an E-step
compares the averaged model's bounds and makes q anew. All that changes is in ``EMState`` and the trainer's own state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.clustering.split_merge import Responsibilities, exchange, revive
from fromnoise.config import ClusteringConfig
from fromnoise.data import Images, to_float
from fromnoise.diffusion.likelihood import e_step
from fromnoise.diffusion.likelihood.code_length import ELBO, StepProposal
from fromnoise.diffusion.likelihood.e_step import Comparison, EStepConfig
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.likelihood import LikelihoodEvaluator
from fromnoise.model import Model
from fromnoise.training.trainer import StepReport, Trainer
from fromnoise.utils.device import ComputeConfig

_ROWS = 640  # of the network's batch in an E-step
_PILOT, _PILOT_STEPS = 32, 24  # images and steps that show where the clusters differ


@dataclass
class EMState:
    """What EM believes.

    Attributes:
        q: probabilities of each image's clusters, float64 (N, Q).
        shares: of the clusters, float64 (Q,).
        rounds: E-steps done.
        plan: probabilities of the steps that E-steps look at, (T,); empty before the first.
        bounds: F of each image at the last E-step, nats, (N,); empty before the first.
        start: the likeliest clusters before the first, int64 (N,).
        nats: bounds that an E-step which is not done has found, float64 (n, Q).
        seen: -log p(s | c) of what the first sorting saw in each image, but for a constant of the image, (N, Q).
    """

    q: Tensor
    shares: Tensor
    rounds: int
    plan: Tensor
    bounds: Tensor
    start: Tensor
    nats: Tensor
    seen: Tensor

    @staticmethod
    def begin(q: Tensor, config: ClusteringConfig) -> EMState:
        """From a first q."""
        nothing, shares = torch.empty(0, dtype=torch.float64), e_step.shares(q, config.concentration)
        return EMState(q, shares, 0, nothing, nothing, q.argmax(1), q[:0], witness(q, config.trust))

    def tensors(self) -> dict[str, Tensor]:
        """For a file."""
        return {k: v for k, v in self.__dict__.items() if isinstance(v, Tensor)}


def witness(q: Tensor, trust: float) -> Tensor:
    """What a sorting says as a second observation s of each image: -trust log p(s | c), p(s | c) = p(c | s) / p(c).

    The mixture is then one of images and of what was seen in them, independent given the cluster, and F bounds the
    log density of both. At trust 0 there are the images alone, and the sorting is a beginning and no more.

    Args:
        q: p(c | s), (N, Q).
        trust: power of the second observation.
    """
    return -trust * (q.clamp(min=1e-6) / q.mean(0).clamp(min=1e-6)).log()


def respected(q: Tensor, given: Tensor) -> Tensor:
    """Probabilities (N, Q) that are sure where a cluster is given; ``given`` is int64 (N,), -1 where none is."""
    sure = torch.zeros_like(q).scatter(1, given.clamp(min=0)[:, None], 1.0)
    return torch.where((given >= 0)[:, None], sure, q)


@dataclass(frozen=True)
class Round:
    """What an E-step found.

    Attributes:
        number: of it, from 1.
        step: optimiser steps before it.
        temperature: of it.
        bound: mean F(q) of the images, nats: a lower bound on log p, but for what ``finest`` leaves out.
        change: since the round before, image by image under the same noise; None at the first.
        moved: share of the images whose likeliest cluster is another than before.
        sure: mean probability of the likeliest cluster.
        shares: of the clusters.
        revived: clusters that were empty and begun anew.
        exchanged: (a, b, c) where b became part of a, and then one half of c.
    """

    number: int
    step: int
    temperature: float
    bound: Estimate
    change: Estimate | None
    moved: float
    sure: float
    shares: tuple[float, ...]
    revived: tuple[int, ...]
    exchanged: tuple[tuple[int, int, int], ...] = ()

    def line(self) -> dict[str, object]:
        """As JSON."""
        plain = {k: v for k, v in self.__dict__.items() if not isinstance(v, Estimate)}
        return plain | {"bound": self.bound.json(), "change": self.change.json() if self.change else None}


@dataclass(frozen=True)
class EStep:
    """A model as a judge of whose an image is.

    Attributes:
        code: the model's bounds.
        clusters: Q.
        compute: where.
        seed: of the noise.
    """

    code: ELBO
    clusters: int
    compute: ComputeConfig
    seed: int

    @staticmethod
    def of(model: Model, clusters: int, compute: ComputeConfig, seed: int) -> EStep:
        """By a model, which is told its clusters as classes."""
        return EStep(LikelihoodEvaluator(model, compute, seed).elbo(), clusters, compute, seed)

    def plan(self, images: Images, finest: float) -> StepProposal:
        """Where to look, from a few images under other noise; steps up to time ``finest`` are left out."""
        steps = self.code.steps
        allowed = StepProposal.uniform(steps).restricted(torch.arange(1, steps + 1) > finest * steps)
        ids = torch.linspace(0, len(images) - 1, min(_PILOT, len(images))).long()
        with torch.inference_mode(), self.compute.autocast():
            return e_step.difference_proposal(
                self.code, self._unit(images, ids), Noise(self.seed + 1, ids), self.clusters, allowed, _PILOT_STEPS
            )

    def compare(
        self, images: Images, plan: StepProposal, search: EStepConfig, first: int = 0, seen: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Comparison]]:
        """Every cluster's bound of images, batch after batch, with their numbers.

        Args:
            images: to be sorted.
            plan: where to look.
            search: how often.
            first: number of the first image.
            seen: nats that are known besides, of all images, (N, Q), as of ``e_step.compare``.
        """
        for ids in torch.arange(first, len(images)).split(max(1, _ROWS // self.clusters)):
            with torch.inference_mode(), self.compute.autocast():
                noise, known = Noise(self.seed, ids), seen[ids] if seen is not None else None
                x0 = self._unit(images, ids)
                found = e_step.compare(self.code, x0, noise, self.clusters, plan, search, known)
            yield ids, found

    def _unit(self, images: Images, ids: Tensor) -> Tensor:
        return to_float(images.get(ids).to(self.compute.device)).contiguous(memory_format=self.compute.memory_format)


class EM:
    """Trains a mixture: yields the trainer's reports, and a ``Round`` after each E-step.

    The trainer's images must have a label each, which this sets.
    """

    def __init__(self, trainer: Trainer, q: Tensor, given: Tensor | None = None) -> None:
        """Begin, or take the place where a state will be loaded.

        Args:
            trainer: of a model that is told Q classes; not begun.
            q: the first belief, float64 (N, Q).
            given: clusters that are known and stay, int64 (N,); -1 where unknown.
        """
        self.trainer, self.given = trainer, given
        self.config = trainer.model.recipe.clustering
        self.images = trainer.data.train
        self.state = EMState.begin(self._respected(q), self.config)
        self._stopped = False
        self._tell()

    @property
    def search(self) -> EStepConfig:
        """How much an image is looked at in an E-step."""
        return EStepConfig(self.config.first, self.config.then, self.config.keep, self.config.sure)

    @property
    def finished(self) -> bool:
        """Whether budget and rounds are used."""
        return self.trainer.fraction >= 1 and self.state.rounds >= self.config.rounds

    def stop(self) -> None:
        """End the loop soon."""
        self._stopped = True
        self.trainer.stop()

    def run(self, on_progress: Callable[[float], object] = lambda share: None) -> Iterator[StepReport | Round]:
        """Go on until the budget is used or ``stop`` was called.

        Args:
            tick: told the share of an E-step that is done.
        """
        steps = self.trainer.run()
        while not self._stopped:
            while self._due() and not self._stopped:
                found = self.expect(on_progress)
                if found is not None:
                    yield found
            report = next(steps, None) if not self._stopped else None
            if report is None:
                return
            yield report

    def _due(self) -> bool:
        """Whether the budget has reached the next E-step: the last is at its end."""
        done, rounds = self.state.rounds, self.config.rounds
        if done >= rounds:
            return False
        apart = (1 - self.config.warmup) / max(1, rounds - 1)
        return self.trainer.fraction >= (1.0 if done == rounds - 1 else self.config.warmup + apart * done)

    def temperature(self, number: int) -> float:
        """Of E-step ``number``, from 1: from the first to the last in equal ratios."""
        part = (number - 1) / max(1, self.config.rounds - 1)
        return self.config.temperature ** (1 - part) * self.config.temperature_last**part

    def sorter(self) -> EStep:
        """The averaged model as it is now."""
        self.trainer.refresh()
        model = replace(self.trainer.model, denoiser=self.trainer.averaged)
        return EStep.of(model, self.config.count, self.trainer.compute, self.trainer.recipe.seed)

    def expect(self, on_progress: Callable[[float], object] = lambda share: None) -> Round | None:
        """The E-step, and the M-step of the shares; None if it was stopped, to go on from where it was."""
        state, sorter = self.state, self.sorter()
        if not len(state.plan):
            state.plan = sorter.plan(self.images, self.config.finest).probability
        for _, found in sorter.compare(self.images, StepProposal(state.plan), self.search, len(state.nats), state.seen):
            state.nats = torch.cat([state.nats, found.nats])
            on_progress(len(state.nats) / len(state.q))
            if self._stopped:
                return None
        nats, number = state.nats + state.seen, state.rounds + 1
        temperature = self.temperature(number)
        q = self._respected(e_step.posterior(nats, state.shares, temperature))
        bounds = e_step.evidence(q, nats, state.shares)
        change = Estimate.mean_of(bounds - state.bounds) if len(state.bounds) else None
        moved = float((q.argmax(1) != state.q.argmax(1)).double().mean())
        sure = float(q.amax(1).mean())
        belief = Responsibilities(q, state.seen)
        revived, exchanged = self._mended(belief, nats) if number < self.config.rounds else ((), ())
        q = self._respected(belief.q)
        shares = e_step.shares(q, self.config.concentration)
        self.state = EMState(q, shares, number, state.plan, bounds, state.start, nats[:0], belief.seen)
        self._tell()
        step, told = self.trainer.progress.step, tuple(shares.tolist())
        return Round(number, step, temperature, Estimate.mean_of(bounds), change, moved, sure, told, revived, exchanged)

    def assign(self, images: Images) -> Tensor:
        """The posterior of other images by the model alone, float64 (M, Q)."""
        told = self.sorter().compare(images, StepProposal(self.state.plan), self.search)
        temperature = self.config.temperature_last
        return torch.cat([e_step.posterior(c.nats, self.state.shares, temperature) for _, c in told])

    def _respected(self, q: Tensor) -> Tensor:
        return q if self.given is None else respected(q, self.given)

    def _mended(
        self, belief: Responsibilities, nats: Tensor
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int, int], ...]]:
        """Empty clusters begun anew, and exchanges; never of those whose labels are given."""
        fixed = set() if self.given is None else set(self.given[self.given >= 0].tolist())
        seed, config = self.trainer.recipe.seed, self.config
        return revive(belief, self.images, config.least, seed), exchange(
            belief, nats, self.images, config.exchange, config.trust, fixed, seed
        )

    def _tell(self) -> None:
        """Draw the cluster that each image is told until the next E-step."""
        ids = torch.arange(len(self.state.q))
        u = Noise(self.trainer.recipe.seed, ids).uniform(Stream.TRAINING_CLUSTER, self.state.rounds)
        told = torch.searchsorted(self.state.q.cumsum(1).contiguous(), u[:, None]).flatten()
        assert self.images.labels is not None
        self.images.labels.copy_(told.clamp(max=self.config.count - 1))

    # ---- state

    def tensors(self) -> dict[str, Tensor]:
        """What a state for resuming holds besides the trainer's."""
        return {f"em.{k}": v for k, v in self.state.tensors().items()}

    def resume(self, tensors: dict[str, Tensor], rounds: int) -> None:
        """Go on from ``tensors`` after so many E-steps; the trainer has its own part already."""
        self.state = EMState(rounds=rounds, **{k: tensors[f"em.{k}"].clone() for k in self.state.tensors()})
        self._tell()
