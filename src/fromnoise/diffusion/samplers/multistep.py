"""Multistep rules: solvers of the probability-flow ODE, and of its SDE, that remember what the denoiser said before.

One evaluation a step. With ``lambda = log(alpha / sigma) = logsnr / 2`` and ``h = lambda_s - lambda_t`` the solution is
(Lu et al. 2022, "DPM-Solver++", eq. 9)

    x_s = sigma_s/sigma_t x_t + alpha_s (integral of e^(lambda - lambda_s) x_0(lambda) over lambda from t to s)

and the rules differ in how earlier estimates of x_0 tell its course between. With constant x_0 it is DDIM(0). A step to
s = 0, where lambda is infinite, is always that: it shows the estimate itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.samplers.base import DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.schedules import NoiseLevel


@dataclass(frozen=True)
class Past:
    """What a multistep rule remembers of a step.

    Attributes:
        level: where the denoiser was asked.
        told: what it said of the clean image or of the noise, as the rule needs it.
    """

    level: NoiseLevel
    prediction: Tensor


def _gap(late: NoiseLevel, early: NoiseLevel) -> Tensor:
    """Lambda of ``early``, the cleaner, less that of ``late``."""
    return (early.logsnr - late.logsnr) / 2


def _finite(level: NoiseLevel) -> bool:
    """Whether the level has a place on the axis of lambda: pure noise and the clean image have none."""
    return bool(torch.isfinite(level.logsnr))


class MultistepSampler(Sampler):
    """A rule of an order, which the first steps, having no past, do not reach."""

    order: int

    @property
    def min_steps(self) -> int:
        """As many as the order."""
        return self.order


def constant(x: Tensor, x0: Tensor, level_t: NoiseLevel, level_s: NoiseLevel) -> Tensor:
    """The solution where x_0 does not change on the way: DDIM(0)."""
    keep = level_s.sigma / level_t.sigma
    return keep * x + (level_s.alpha - level_t.alpha * keep) * x0


def _orders(name: str, order: int, most: int) -> None:
    if not 1 <= order <= most:
        raise ValueError(f"{name} has orders 1 to {most}, not {order}")


@dataclass(frozen=True)
class DPMSolverPP(MultistepSampler):
    """DPM-Solver++ multistep, of the flow or of the reverse SDE (Lu et al. 2022, alg. 2, its third order, and sec. 5).

    With r = 1 for the flow and 2 for the SDE, x_0's course is weighed by r e^(r (lambda - lambda_s)). At first order
    they are DDIM(0) and the ancestral rule with small variance.

    Attributes:
        order: 1, 2 or 3; the first steps, which have no past, are of lower order.
        noisy: solve the SDE, with fresh noise.
    """

    order: int = 2
    noisy: bool = False

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: it is not 1, 2 or 3.
        """
        _orders("DPM-Solver++", self.order, 3)

    def start(self) -> tuple[Past, ...]:
        """No past."""
        return ()

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step, with the polynomial in lambda through the last ``order`` estimates."""
        prediction = denoise(x, level_t)
        if not _finite(level_s):
            return constant(x, prediction.x0, level_t, level_s), prediction, memory
        past, h = memory[: self.order - 1], _gap(level_t, level_s)
        rate, forgotten = (2, torch.exp(-h)) if self.noisy else (1, 1)
        grown = -torch.expm1(-rate * h)
        new = level_s.sigma / level_t.sigma * forgotten * x + level_s.alpha * grown * prediction.x0
        if past:
            slope, bend = differences(prediction.x0, level_t, past, h)
            if bend is None:
                new = new + level_s.alpha * grown / 2 * slope
            else:
                moment = 1 - grown / (rate * h)
                new = new + level_s.alpha * (moment * slope + (0.5 - moment / (rate * h)) * bend)
        if self.noisy:
            new = new + level_s.sigma * grown.sqrt() * noise()
        return new, prediction, remember(memory, level_t, prediction.x0, self.order)


def remember(memory: tuple[Past, ...], level_t: NoiseLevel, prediction: Tensor, order: int) -> tuple[Past, ...]:
    """The newest first, as many as the order uses; an estimate at pure noise is not kept, it has no lambda."""
    return (Past(level_t, prediction), *memory)[: order - 1] if _finite(level_t) else memory


def differences(
    prediction: Tensor, level_t: NoiseLevel, past: tuple[Past, ...], h: Tensor
) -> tuple[Tensor, Tensor | None]:
    """First and second derivative at ``level_t`` of what was told, in units of ``h``; two points know no second."""
    r0 = _gap(past[0].level, level_t) / h
    first = (prediction - past[0].prediction) / r0
    if len(past) == 1:
        return first, None
    r1 = _gap(past[1].level, past[0].level) / h
    second = (past[0].prediction - past[1].prediction) / r1
    bend = 2 * (first - second) / (r0 + r1)
    return first + r0 / 2 * bend, bend


@dataclass(frozen=True)
class IPNDM(MultistepSampler):
    """Adams-Bashforth on the noise: iPNDM (Zhang and Chen 2022, "DEIS"), with weights for the steps as they are.

    In x/alpha and rho = sigma/alpha the flow is d(x/alpha)/d rho = eps; the polynomial in rho through the last
    estimates of eps is integrated exactly, so that the order holds on any grid.

    Attributes:
        order: 1 (DDIM) to 4; the first steps are of lower order.
    """

    order: int = 3

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: it is not 1 to 4.
        """
        _orders("ipndm", self.order, 4)

    def start(self) -> tuple[Past, ...]:
        """No past."""
        return ()

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """One step."""
        prediction = denoise(x, level_t)
        eps = level_t.eps(x, prediction.x0)
        if not _finite(level_t):
            return constant(x, prediction.x0, level_t, level_s), prediction, memory
        known = (Past(level_t, eps), *memory)[: self.order]
        rhos = torch.stack([p.level.sigma / p.level.alpha for p in known])
        weights = adams_weights(rhos, level_s.sigma / level_s.alpha)
        new = x / level_t.alpha + sum(w * p.prediction for w, p in zip(weights, known, strict=True))
        return level_s.alpha * new, prediction, remember(memory, level_t, eps, self.order)


def adams_weights(nodes: Tensor, end: Tensor) -> Tensor:
    """Integrals from ``nodes[0]`` to ``end`` of the Lagrange polynomials of the nodes, float64 (K,)."""
    span = end - nodes[0]
    places = (nodes - nodes[0]) / span
    powers = torch.arange(len(nodes), dtype=torch.float64)
    moments = 1 / (powers + 1)
    return span * torch.linalg.solve(places[None, :] ** powers[:, None], moments)


@dataclass(frozen=True)
class UniPC(MultistepSampler):
    """UniPC-p with B(h) = e^h - 1 (Zhao et al. 2023, alg. 5 to 8): predict, and correct with the next evaluation.

    The evaluation at a predicted image corrects that image before the next step starts from it; none is spent on the
    corrected one.

    Attributes:
        order: of the predictor, 1 to 3; the corrector adds one.
    """

    order: int = 2

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: it is not 1, 2 or 3.
        """
        _orders("UniPC", self.order, 3)

    def start(self) -> tuple[tuple[Past, ...], Tensor | None]:
        """No past, no image to correct from."""
        return (), None

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """Correct ``x`` with what is said of it, then predict."""
        prediction = denoise(x, level_t)
        past, before = memory
        if past and _finite(level_t):
            newest = past[0]
            nodes = (Past(level_t, prediction.x0), *past[1:])
            x = _unified(before, newest, level_t, nodes, corrector=True)
        now = Past(level_t, prediction.x0)
        if _finite(level_t) and _finite(level_s):
            new = _unified(x, now, level_s, past[: self.order - 1], corrector=False)
            kept = (now, *past)[: self.order]
        else:
            new, kept = constant(x, prediction.x0, level_t, level_s), ()
        return new, prediction, (kept, x)


def _unified(x: Tensor, start: Past, level_s: NoiseLevel, nodes: tuple[Past, ...], *, corrector: bool) -> Tensor:
    """``constant`` and a weighted sum of the differences of ``nodes`` to ``start`` (Zhao et al. 2023, eqs. 3, 5, 9)."""
    new = constant(x, start.prediction, start.level, level_s)
    if not nodes:
        return new
    h = _gap(start.level, level_s)
    ratios = torch.stack([_gap(start.level, p.level) / h for p in nodes])
    base = -torch.expm1(-h)
    phi, moments = base, []
    for k in range(1, len(nodes) + 1):
        # phi_k = integral of e^(-h (1 - u)) u^k over [0, 1] times h, over base: what the sum must give for u^k
        phi = 1 - k * phi / h
        moments.append(phi / base)
    if len(nodes) == 1:
        weights = [torch.full_like(h, 0.5)]  # as the paper: for one node any weight that tends to 1/2 has the order
    else:
        powers = torch.arange(len(nodes), dtype=torch.float64)
        weights = list(torch.linalg.solve(ratios[None, :] ** powers[:, None], torch.stack(moments)))
    for weight, ratio, p in zip(weights, ratios, nodes, strict=True):
        new = new + level_s.alpha * base * weight / ratio * (p.prediction - start.prediction)
    return new
