"""The E-step and the M-step of the mixture weights for a mixture of conditional diffusion models.

    z ~ Cat(pi),    x_0 | z = c  from the diffusion model conditioned on c

L_c(x_0) is the negative ELBO of the model conditioned on c (``code_length.py``), in nats. For every q over components

    log p(x_0) >= F(q) = sum_c q_c (log pi_c - log q_c - L_c(x_0))

The E-step maximizes F over q (``responsibilities``). The M-step maximizes it over the model: pi by ``mixture_weights``,
the network by its usual loss, conditioned on a c sampled from q (Dempster et al. 1977; Neal and Hinton 1998).

Only the differences between the components' L_c of one image matter. ``component_bounds`` estimates all of them from
the same steps and the same noise, so that common terms cancel; each noise is used with both signs, so that terms odd in
the noise cancel; and unlikely components are evaluated at few steps only (the two stages of Li et al. 2023, "Your
diffusion model is secretly a zero-shot classifier", sec. 3.3).

F of responsibilities that maximize F of the same noisy estimates is biased upwards. ``truncate`` and
``independent_bounds`` give an unbiased one: any q may be evaluated, and with noise that is independent of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.diffusion.likelihood.code_length import ELBO, SampledTerms, StepProposal
from fromnoise.diffusion.rng import Noise, Stream


def responsibilities(nats: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """The E-step: q_c proportional to pi_c exp(-L_c / temperature), float64 (B, K).

    It maximizes sum_c q_c (log pi_c - log q_c - L_c / temperature), which at temperature 1 is F.

    Args:
        nats: L_c, (B, K); inf excludes a component.
        weights: pi, (K,).
        temperature: values above 1 make q less confident, for early rounds, when L_c is inaccurate.
    """
    return torch.softmax(weights.double().log() - nats.double() / temperature, dim=1)


def mixture_elbo(q: Tensor, nats: Tensor, weights: Tensor) -> Tensor:
    """F(q) of each image in nats, float64 (B,): at most log p(x_0) for every q; 0 log 0 is 0.

    F is linear in L_c: with unbiased estimates of L_c that are independent of q, F is unbiased and its expectation a
    bound (``independent_bounds``). With the estimates from which q itself was computed it is biased upwards, as
    log-sum-exp is convex.

    Args:
        q: distribution over the components, (B, K).
        nats: L_c, (B, K).
        weights: pi, (K,).
    """
    q = q.double()
    joint = torch.where(q > 0, weights.double().log() - nats.double(), 0.0)
    return (q * joint - torch.special.xlogy(q, q)).sum(1)


def truncate(q: Tensor, limit: int, mass: float = 0.999) -> Tensor:
    """Each q on its fewest components of total probability ``mass``, and at most ``limit``, renormalized; (B, K).

    F of the truncated posterior is log p + log(kept probability), so that ``mass`` 0.999 costs at most 0.001 nats where
    ``limit`` does not apply.

    Args:
        q: distributions over the components, (B, K).
        limit: largest number of components to keep, at least 1.
        mass: probability to keep.
    """
    sizes, order = q.double().sort(dim=1, descending=True, stable=True)
    kept = (sizes.cumsum(1) - sizes < mass) & (torch.arange(q.shape[1]) < limit) & (sizes > 0)
    sizes = torch.where(kept, sizes, 0.0)
    return torch.zeros_like(sizes).scatter(1, order, sizes / sizes.sum(1, keepdim=True))


def mixture_weights(q: Tensor, concentration: float = 1.0) -> Tensor:
    """The M-step of pi, its mode under a Dirichlet prior: (a - 1 + sum_n q_nc) / (K a - K + N), float64 (K,).

    Args:
        q: responsibilities of all images, (N, K).
        concentration: a >= 1; 1 is maximum likelihood, larger values pull towards equal weights.
    """
    total = q.double().sum(0) + (concentration - 1)
    return total / total.sum()


@dataclass(frozen=True)
class EStepConfig:
    """How many diffusion steps the E-step evaluates for each image.

    Attributes:
        probes: steps at which every component is evaluated, each with a noise and its negative; at least 1.
        refine: additional steps at which the candidates are evaluated.
        candidates: number of most likely components that are refined.
        confident: images with a component of a larger posterior than this after the probes, at temperature 1 and with
            even weights, are not refined; with 1, all images are.
    """

    probes: int
    refine: int
    candidates: int
    confident: float = 1.0

    def nfe(self, components: int) -> int:
        """Network evaluations of an image that is refined."""
        return 2 * (self.probes * components + self.refine * min(self.candidates, components))


@dataclass(frozen=True)
class ComponentBounds:
    """Estimated L_c of images.

    Attributes:
        nats: estimates of L_c, float64 (B, K), unbiased without refinement. With it, the estimate of a component that
            is not a candidate uses its probes, and the mean change of the candidates from their probes to all of their
            steps; as the probes also select the candidates, F comes out too high. ``independent_bounds`` has no such
            selection.
        error: standard error of L_c - min_c L_c, float64 (B, K); 0 for the minimum, NaN if there is one step only.
        nfe: network evaluations of each image, int64 (B,).
    """

    nats: Tensor
    error: Tensor
    nfe: Tensor


def component_bounds(
    elbo: ELBO,
    x0: Tensor,
    noise: Noise,
    components: int,
    proposal: StepProposal,
    config: EStepConfig,
    offsets: Tensor | None = None,
) -> ComponentBounds:
    """Estimate L_c of every component for each image, with the same steps and noise.

    Args:
        elbo: the bound of the model, whose classes are the components.
        x0: clean images (B, C, H, W).
        noise: of (seed, image).
        components: K.
        proposal: of the steps; steps of probability 0 are left out of every L_c.
        config: number of steps.
        offsets: nats to add to L_c when the candidates are chosen, (B, K); the result does not contain them.
    """
    all_components = torch.arange(components, device=x0.device).expand(len(x0), -1)
    probes = _sample_terms(elbo, x0, noise, proposal, all_components, range(1, config.probes + 1), 0)
    nats = probes.mean(1)
    error = _standard_error(probes - probes.gather(2, nats.argmin(1)[:, None, None].expand(-1, config.probes, 1)))
    so_far = nats if offsets is None else nats + offsets
    rows = (torch.softmax(-so_far, 1).amax(1) <= config.confident).nonzero().flatten()
    candidates = so_far[rows].topk(min(config.candidates, components), largest=False).indices
    if len(rows):
        part = replace(noise, ids=noise.ids[rows])
        refined = _refine(elbo, x0[rows.to(x0.device)], part, proposal, config, probes[rows], candidates)
        nats, error = nats.index_copy(0, rows, refined[0]), error.index_copy(0, rows, refined[1])
    nfe = torch.full((len(x0),), 2 * config.probes * components)
    nfe[rows] += 2 * config.refine * candidates.shape[1]
    return ComponentBounds(nats + elbo.prior(x0)[:, None], error, nfe)


def independent_bounds(
    elbo: ELBO, x0: Tensor, noise: Noise, chosen: Tensor, proposal: StepProposal, steps: int
) -> Tensor:
    """Unbiased estimates of L_c of some components, from other steps and noise than ``component_bounds``.

    For a q that does not depend on this noise and is 0 outside of ``chosen``, the expectation of ``mixture_elbo`` of
    these estimates is F(q) exactly, whatever q is: its mean over images estimates a lower bound on their mean log p
    (cross-fitting: a nuisance, here q, and what is estimated with it use independent samples; Chernozhukov et al. 2018,
    sec. 1). All components of an image share the steps and the noise.

    Args:
        elbo: the bound of the model, whose classes are the components.
        x0: clean images (B, C, H, W).
        noise: of (seed, image).
        chosen: components to evaluate, bool (B, K).
        proposal: of the steps; steps of probability 0 are left out of every L_c.
        steps: diffusion steps of each estimate, each with a noise and its negative.

    Returns:
        Nats, float64 (B, K); inf where not chosen.
    """
    rows, components = chosen.cpu().nonzero(as_tuple=True)
    part, images = replace(noise, ids=noise.ids[rows]), x0[rows.to(x0.device)]
    columns = components[:, None].to(x0.device)
    terms = _sample_terms(elbo, images, part, proposal, columns, range(1, steps + 1), 0, Stream.CROSS_FIT)
    nats = torch.full(chosen.shape, torch.inf, dtype=torch.float64)
    nats[rows, components] = terms.mean((1, 2))
    return nats + elbo.prior(x0)[:, None]


def _refine(
    elbo: ELBO,
    x0: Tensor,
    noise: Noise,
    proposal: StepProposal,
    config: EStepConfig,
    probes: Tensor,
    candidates: Tensor,
) -> tuple[Tensor, Tensor]:
    """L_c - L_T of refined images, and the errors of the differences, as in ``ComponentBounds``.

    Args:
        elbo: the bound of the model.
        x0: clean images (B, C, H, W).
        noise: of (seed, image).
        proposal: of the steps.
        config: number of steps.
        probes: terms of the probes, (B, S, K).
        candidates: components to evaluate further, (B, M).
    """
    parts = range(config.probes + 1, config.probes + config.refine + 1)
    added = _sample_terms(elbo, x0, noise, proposal, candidates.to(x0.device), parts, config.probes + config.refine + 1)
    candidate_probes = probes.gather(2, candidates[:, None].expand(-1, config.probes, -1))
    terms = torch.cat([candidate_probes, added], 1)
    nats = probes.mean(1) + (terms.mean((1, 2)) - candidate_probes.mean((1, 2)))[:, None]
    nats = nats.scatter(1, candidates, terms.mean(1))
    # errors: over all steps between candidates, over the probes for the other components
    best = nats.argmin(1)
    error = _standard_error(probes - probes.gather(2, best[:, None, None].expand(-1, config.probes, 1)))
    column = (candidates == best[:, None]).int().argmax(1)
    refined = _standard_error(terms - terms.gather(2, column[:, None, None].expand(-1, terms.shape[1], 1)))
    return nats, error.scatter(1, candidates, refined)


def _standard_error(differences: Tensor) -> Tensor:
    """Standard error of the mean over dimension 1; NaN for a single value."""
    count = differences.shape[1]
    return differences.std(1) / count**0.5 if count > 1 else torch.full_like(differences[:, 0], torch.nan)


def _sample_terms(
    elbo: ELBO,
    x0: Tensor,
    noise: Noise,
    proposal: StepProposal,
    components: Tensor,
    parts: range,
    index: int,
    stream: Stream = Stream.BOUND,
) -> Tensor:
    """Importance-weighted terms of L_c - L_T, float64 (B, S, M): their mean over S is an unbiased estimate.

    Each term is the mean over a noise and its negative.

    Args:
        elbo: the bound of the model.
        x0: clean images (B, C, H, W).
        noise: of (seed, image).
        proposal: of the steps.
        components: components to evaluate, (B, M).
        parts: indices of the random normal tensors, one for each of the S steps.
        index: index of the uniform random number that selects the steps.
        stream: of all random numbers.
    """
    many = components.shape[1]
    k = proposal.sample(noise.uniform(stream, index), len(parts))
    images, cond = x0.repeat_interleave(many, 0), components.flatten()
    out = [k.new_empty((len(x0), 0, many), dtype=torch.float64)]
    for column, part in zip(k.T, parts, strict=True):
        own = replace(noise, offset=elbo.offset).image(tuple(x0.shape[1:]), stream, part, like=x0)
        eps = own.repeat_interleave(many, 0)
        steps = column.repeat_interleave(many)
        nats = (elbo.term_at(images, steps, eps, cond)[0] + elbo.term_at(images, steps, -eps, cond)[0]) / 2
        out.append((nats.reshape(-1, many) / proposal.probability[column - 1][:, None])[:, None])
    return torch.cat(out, 1)


def difference_proposal(
    elbo: ELBO, x0: Tensor, noise: Noise, components: int, allowed: StepProposal, steps: int
) -> StepProposal:
    """A proposal by how much the components' terms differ at each step, from a pilot estimate.

    Steps whose terms are large but equal for all components are rarely visited.

    Args:
        elbo: the bound of the model.
        x0: pilot images.
        noise: independent of the noise that the proposal will be used with.
        components: K.
        allowed: uniform proposal over the steps that may be visited.
        steps: pilot steps of each image.
    """
    all_components = torch.arange(components, device=x0.device).expand(len(x0), -1)
    terms = _sample_terms(elbo, x0, noise, allowed, all_components, range(1, steps + 1), 0)
    k = allowed.sample(noise.uniform(Stream.BOUND, 0), steps)
    deviation = terms.std(2, correction=0) * allowed.probability[k - 1]
    pilot = SampledTerms(k, deviation, torch.ones_like(deviation), elbo.prior(x0))
    return StepProposal.importance(pilot, elbo.steps).restricted(allowed.probability > 0)
