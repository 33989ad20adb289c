"""Code length of images under a model, in bits a dimension: by the variational bound and by the flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.data import Images, shuffled_indices, to_float
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.diffusion.likelihood.code_length import ELBO, SampledTerms, StepProposal, bin_index, geometric_bins
from fromnoise.diffusion.likelihood.ode import ODESolver, ProbabilityFlow
from fromnoise.diffusion.rng import Noise
from fromnoise.evaluation.metrics.frechet import Estimate
from fromnoise.model import Model
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

OnProgress = Callable[[int], object]
"""Told how many images more are done."""

_PILOT = 16  # images that tell where the terms are large
_PILOT_VISITS = 48
_BINS = 40

T = TypeVar("T")


@dataclass(frozen=True)
class BoundBits:
    """The bound of some images.

    Attributes:
        each: of each image, bits a dimension, (N,).
        prior: mean of L_T.
        decoder: mean of L_0.
        by_step: mean of the terms in bins of k: first and last step, and bits a dimension and step.
    """

    each: Tensor
    prior: float
    decoder: float
    by_step: list[tuple[int, int, float]]


@dataclass(frozen=True)
class Piece:
    """Code lengths of a piece of a set.

    Attributes:
        bound: of all of its images.
        flow: by the flow, of the first of them, bits a dimension (M,); None if it was left out.
    """

    bound: BoundBits
    flow: Tensor | None

    def estimates(self) -> dict[str, Estimate]:
        """By ``bound`` and, if it was measured, by ``flow``."""
        known = {"bound": self.bound.each, "flow": self.flow}
        return {name: Estimate.of(each) for name, each in known.items() if each is not None}

    def parts(self) -> dict[str, float]:
        """Prior, steps and decoder of the bound, bits a dimension."""
        prior, decoder = self.bound.prior, self.bound.decoder
        return {"prior": prior, "steps": float(self.bound.each.mean()) - prior - decoder, "decoder": decoder}

    def lost(self) -> Estimate | None:
        """Bound less flow of the same images: what the steps lose."""
        return None if self.flow is None else Estimate.of(self.bound.each[: len(self.flow)] - self.flow)

    def json(self) -> dict[str, Any]:
        """All of it."""
        found: dict[str, Any] = {"bound": None, "flow": None}
        found |= {name: e.json() for name, e in self.estimates().items()}
        steps = [{"first": low, "last": high, "bits": bits} for low, high, bits in self.bound.by_step]
        return found | {"parts": self.parts(), "by_step": steps}


def gaps(held_out: Piece, training: Piece) -> dict[str, Estimate]:
    """Held out less training, by each way that both were measured: what is well above 0 was memorised."""
    out = {}
    for name, a in held_out.estimates().items():
        b = training.estimates().get(name)
        if b is not None:
            out[name] = Estimate(a.value - b.value, math.hypot(a.error, b.error), min(a.n, b.n))
    return out


def some(images: Images, model: Model, count: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Random images of a piece, as many as there are at most, and what a model is told of them.

    Args:
        images: the piece.
        model: that is told classes or attributes, or is not.
        count: how many.
        seed: which.

    Returns:
        uint8 (N, C, H, W); and their classes or attributes, as of nothing told where they are not known, or None for
        a model that is never told any.
    """
    chosen = shuffled_indices(len(images), seed, range(min(count, len(images))))
    pixels, labels = images.get(chosen), images.labels
    if not model.dataset_info.is_conditional:
        return pixels, None
    known = labels is not None and labels.is_floating_point() == (model.dataset_info.attributes is not None)
    return pixels, labels[chosen] if labels is not None and known else conditioning_for(
        model.dataset_info, None, chosen
    )


@dataclass(frozen=True)
class Measure:
    """How a model's code length is measured.

    Attributes:
        model: placed on ``compute.device``, in eval mode.
        compute: where; single precision is meant: a trace amplifies the rounding of bf16.
        seed: of the noise; image i's is of (seed, i).
        batch: images at a time.
        how: whose variance and clipping the model takes; None for its recipe's.
    """

    model: Model
    compute: ComputeConfig
    seed: int = 0
    batch: int = 64
    config: SamplingConfig | None = None

    def code(self) -> ELBO:
        """The model as a code: its own variance, and x_0 clipped where it is clipped to sample."""
        config = (self.config or self.model.recipe.sample).model_copy(update={"guidance": 1.0})
        return ELBO(self.model.guided(config), self.model.schedule, self.model.variance(config))

    def bound(
        self, pixels: Tensor, labels: Tensor | None, visits: int | None = 32, on_progress: OnProgress = lambda n: None
    ) -> BoundBits:
        """The bound of images.

        Args:
            pixels: uint8 (N, C, H, W).
            labels: classes (N,), for a model that is told them.
            visits: steps an image, drawn where the terms are large; None visits all.
            tick: told of progress.

        Raises:
            UserError: the model has one step only.
        """
        code = self.code()
        if code.steps < 2:
            raise UserError("a model of one step has no bound: train with --diffusion.steps 2 or more")
        if visits is None or visits >= code.steps:
            parts = self._each(pixels, labels, lambda *batch: _whole(code, *batch), on_progress)
        else:
            plan = self._plan(code, pixels[:_PILOT], labels)
            parts = self._each(
                pixels, labels, lambda x0, noise, cond: code.sampled_terms(x0, noise, plan, visits, cond), on_progress
            )
        k, nats, weight = (torch.cat([getattr(p, name) for p in parts]) for name in ("k", "nats", "weight"))
        each, prior = self._unit * nats * weight, self._unit * torch.cat([p.prior for p in parts])
        starts = geometric_bins(code.steps, _BINS)
        total = torch.zeros(len(starts), dtype=torch.float64).index_add_(
            0, bin_index(k.flatten(), starts), each.flatten()
        )
        ends = [*(starts[1:] - 1).tolist(), code.steps]
        by_step = [
            (low, high, float(bits) / len(pixels) / (high - low + 1))
            for low, high, bits in zip(starts.tolist(), ends, total, strict=True)
        ]
        return BoundBits(prior + each.sum(1), float(prior.mean()), by_step[0][2], by_step)

    def flow(
        self,
        pixels: Tensor,
        labels: Tensor | None,
        solver: ODESolver,
        probes: int = 1,
        on_progress: OnProgress = lambda n: None,
    ) -> Tensor:
        """Code length by the probability flow, bits a dimension of each image, (N,); see ``ELBO.flow_nll``.

        Args:
            pixels: uint8 (N, C, H, W).
            labels: as of ``bound``.
            solver: of the flow.
            probes: signs that estimate each trace.
            tick: told of progress.

        Raises:
            UserError: the solver gave up.
        """
        code, flow = self.code(), ProbabilityFlow(self.model.denoiser, self.model.schedule, solver)
        try:
            parts = self._each(
                pixels, labels, lambda x0, noise, cond: code.flow_nll(flow, x0, noise, probes, cond), on_progress
            )
        except ArithmeticError as e:
            raise UserError(f"{e}: take a larger --tolerance") from None
        return self._unit * torch.cat(parts)

    @property
    def _unit(self) -> float:
        """Bits a dimension of a nat."""
        return 1 / (math.log(2) * math.prod(self.model.dataset_info.shape))

    def _each(self, pixels: Tensor, labels: Tensor | None, work: Callable[..., T], on_progress: OnProgress) -> list[T]:
        """``work(x0, noise, cond)`` of each batch."""
        out = []
        for ids in torch.arange(len(pixels)).split(self.batch):
            x0 = to_float(pixels[ids].to(self.compute.device)).contiguous(memory_format=self.compute.memory_format)
            cond = labels[ids].to(self.compute.device) if labels is not None else None
            with torch.no_grad(), self.compute.autocast():
                out.append(work(x0, Noise(self.seed, ids), cond))
            on_progress(len(ids))
        return out

    def _plan(self, code: ELBO, pixels: Tensor, labels: Tensor | None) -> StepProposal:
        """Where the terms are large, from a few images under other noise."""
        even = StepProposal.uniform(code.steps)
        pilot = Measure(self.model, self.compute, self.seed + 1, len(pixels))
        (seen,) = pilot._each(
            pixels,
            labels,
            lambda x0, noise, cond: code.sampled_terms(x0, noise, even, min(_PILOT_VISITS, code.steps), cond),
            lambda n: None,
        )
        return StepProposal.importance(seen, code.steps)


def _whole(code: ELBO, x0: Tensor, noise: Noise, cond: Tensor | None) -> SampledTerms:
    """Every step as a visit."""
    terms = list(code.all_terms(x0, noise, cond))
    nats = torch.stack([term.nats for term in terms], 1)
    k = torch.tensor([term.k for term in terms]).expand(len(x0), -1)
    return SampledTerms(k, nats, torch.ones_like(nats), code.prior(x0))
