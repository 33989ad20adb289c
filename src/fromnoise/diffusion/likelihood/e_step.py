"""A mixture of conditional diffusion models: to which component belongs an image? The two steps of variational EM.

    z ~ Cat(pi),    x_0 | z = c  as the denoiser draws that is told c

L_c(x_0) is the bound of the denoiser told c (``codelength.py``), in nats. For every q over the components

    log p(x_0) >= F(q) = sum_c q_c (log pi_c - log q_c - L_c(x_0))

The E-step takes the q that is best for the model, ``posterior``; the M-step the model that is best for q: pi by
``shares``, the denoiser by its usual loss, told a c drawn from q (Neal and Hinton 1998; Dempster et al. 1977).

What decides is the difference between the components' bounds of one image. ``compare`` estimates all of them from the
same steps and the same noise, so that what they share cancels; each noise is followed by its negative, so that what is
odd in it cancels too; and components that are far behind are looked at in a few steps only (the two stages of Li et al.
2023, "Your diffusion model is secretly a zero-shot classifier", sec. 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.diffusion.likelihood.code_length import ELBO, SampledTerms, StepProposal
from fromnoise.diffusion.rng import Noise, Stream


def posterior(nats: Tensor, shares: Tensor, temperature: float = 1.0) -> Tensor:
    """The E-step: q_c in proportion to pi_c exp(-L_c / temperature), float64 (B, K).

    It maximises sum_c q_c (log pi_c - log q_c - L_c / temperature): at temperature 1 the bound F itself.

    Args:
        nats: L_c, (B, K); inf rules a component out.
        shares: pi, (K,).
        temperature: above 1 it is less sure; in the beginning the bounds differ by more than the model knows.
    """
    return torch.softmax(shares.double().log() - nats.double() / temperature, dim=1)


def evidence(q: Tensor, nats: Tensor, shares: Tensor) -> Tensor:
    """F(q) of each image, nats, float64 (B,): at most log p(x_0), whatever q; 0 log 0 is 0."""
    q = q.double()
    prediction = torch.where(q > 0, shares.double().log() - nats.double(), 0.0)
    return (q * prediction - torch.special.xlogy(q, q)).sum(1)


def shares(q: Tensor, concentration: float = 1.0) -> Tensor:
    """The M-step of pi under a Dirichlet prior, its mode: (a - 1 + sum_n q_nc) / (K a - K + N), float64 (K,).

    Args:
        q: of all images, (N, K).
        concentration: a >= 1 of the prior; 1 is none, more pulls towards equal shares.
    """
    total = q.double().sum(0) + (concentration - 1)
    return total / total.sum()


@dataclass(frozen=True)
class EStepConfig:
    """How much each image is looked at.

    Attributes:
        first: steps at which every component is compared, under a noise and its negative; at least 1.
        then: steps more at which those that are still in question are.
        keep: how many stay in question.
        sure: an image that belongs to one component by more than this after the first steps is in question no more;
            at 1 all are.
    """

    first: int
    then: int
    keep: int
    sure: float = 1.0

    def forwards(self, components: int) -> int:
        """Evaluations of the network that an image in question takes."""
        return 2 * (self.first * components + self.then * min(self.keep, components))


@dataclass(frozen=True)
class Comparison:
    """The components' bounds of some images, as estimated.

    Attributes:
        nats: L_c, float64 (B, K), each without bias; that of a component which was dropped rests on the first steps
            alone, and on what the others showed later.
        error: standard error of L_c less the least one, float64 (B, K); 0 for the least. Two steps at least make one.
        forwards: evaluations of the network that each image took, int64 (B,).
    """

    nats: Tensor
    error: Tensor
    forwards: Tensor


def compare(
    code: ELBO,
    x0: Tensor,
    noise: Noise,
    components: int,
    plan: StepProposal,
    search: EStepConfig,
    seen: Tensor | None = None,
) -> Comparison:
    """Estimate every component's bound of images under the same steps and noise.

    Args:
        code: the model; it is told components as classes.
        x0: clean images (B, C, H, W).
        noise: of (seed, image).
        components: K.
        plan: of the steps; those that it never visits are left out of all bounds alike.
        search: how much each image is looked at.
        seen: nats that are known besides, (B, K); they say who stays in question too, and are not in the result.
    """
    everyone = torch.arange(components, device=x0.device).expand(len(x0), -1)
    first = _terms(code, x0, noise, plan, everyone, range(1, search.first + 1), 0)
    nats = first.mean(1)
    error = _error(first - first.gather(2, nats.argmin(1)[:, None, None].expand(-1, search.first, 1)))
    so_far = nats if seen is None else nats + seen
    rows = (torch.softmax(-so_far, 1).amax(1) <= search.sure).nonzero().flatten()
    kept = so_far[rows].topk(min(search.keep, components), largest=False).indices
    if len(rows):
        some = replace(noise, ids=noise.ids[rows])
        closer = _closer(code, x0[rows.to(x0.device)], some, plan, search, first[rows], kept)
        nats, error = nats.index_copy(0, rows, closer[0]), error.index_copy(0, rows, closer[1])
    forwards = torch.full((len(x0),), 2 * search.first * components)
    forwards[rows] += 2 * search.then * kept.shape[1]
    return Comparison(nats + code.prior(x0)[:, None], error, forwards)


def _closer(
    code: ELBO, x0: Tensor, noise: Noise, plan: StepProposal, search: EStepConfig, first: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """L less L_T of images in question after both stages, and the errors of the differences; as of ``Comparison``.

    Args:
        code: the model.
        x0: those images.
        noise: of theirs.
        plan: of the steps.
        search: how often they are looked at.
        first: what the first steps gave, (B, S, K).
        kept: components that are in question, (B, M).
    """
    parts = range(search.first + 1, search.first + search.then + 1)
    then = _terms(code, x0, noise, plan, kept.to(x0.device), parts, search.first + search.then + 1)
    near = first.gather(2, kept[:, None].expand(-1, search.first, -1))
    both = torch.cat([near, then], 1)
    nats = first.mean(1) + (both.mean((1, 2)) - near.mean((1, 2)))[:, None]
    nats = nats.scatter(1, kept, both.mean(1))
    # of those in question all steps count, of the others the first
    best = nats.argmin(1)
    error = _error(first - first.gather(2, best[:, None, None].expand(-1, search.first, 1)))
    place = (kept == best[:, None]).int().argmax(1)
    late = _error(both - both.gather(2, place[:, None, None].expand(-1, both.shape[1], 1)))
    return nats, error.scatter(1, kept, late)


def _error(differences: Tensor) -> Tensor:
    """Standard error of the mean over dimension 1; NaN of one alone."""
    count = differences.shape[1]
    return differences.std(1) / count**0.5 if count > 1 else torch.full_like(differences[:, 0], torch.nan)


def _terms(
    code: ELBO, x0: Tensor, noise: Noise, plan: StepProposal, prediction: Tensor, parts: range, place: int
) -> Tensor:
    """Terms over the probabilities of their steps, float64 (B, S, M): their mean over S estimates L less L_T.

    Each is the mean of two, under a noise and its negative.

    Args:
        code: the model.
        x0: clean images (B, C, H, W).
        noise: of (seed, image).
        plan: of the steps.
        told: the components to compare, (B, M).
        parts: numbers of the noises, one a step.
        place: number of the random number that places the steps.
    """
    many = prediction.shape[1]
    k = plan.sample(noise.uniform(Stream.BOUND, place), len(parts))
    images, cond = x0.repeat_interleave(many, 0), prediction.flatten()
    out = [k.new_empty((len(x0), 0, many), dtype=torch.float64)]
    for column, part in zip(k.T, parts, strict=True):
        eps = noise.normal(tuple(x0.shape[1:]), Stream.BOUND, part, like=x0).repeat_interleave(many, 0)
        each = column.repeat_interleave(many)
        nats = (code.term_at(images, each, eps, cond)[0] + code.term_at(images, each, -eps, cond)[0]) / 2
        out.append((nats.reshape(-1, many) / plan.probability[column - 1][:, None])[:, None])
    return torch.cat(out, 1)


def difference_proposal(
    code: ELBO, x0: Tensor, noise: Noise, components: int, allowed: StepProposal, visits: int
) -> StepProposal:
    """A plan by how far the components' terms are apart at each step, as a first look finds it.

    Steps whose terms are large but alike decide nothing and are visited seldom.

    Args:
        code: the model.
        x0: a few images.
        noise: not the one that the plan will be used with.
        components: K.
        allowed: the steps that may be visited, evenly.
        visits: steps at which each image is looked at.
    """
    everyone = torch.arange(components, device=x0.device).expand(len(x0), -1)
    terms = _terms(code, x0, noise, allowed, everyone, range(1, visits + 1), 0)
    k = allowed.sample(noise.uniform(Stream.BOUND, 0), visits)
    apart = terms.std(2, correction=0) * allowed.probability[k - 1]
    found = StepProposal.importance(SampledTerms(k, apart, torch.ones_like(apart), code.prior(x0)), code.steps)
    return found.restricted(allowed.probability > 0)
