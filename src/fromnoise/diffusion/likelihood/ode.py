"""The score view of a model: the probability-flow ODE encodes, decodes and gives likelihoods.

With lambda = log(alpha / sigma) = logsnr / 2 the probability flow of a variance-preserving process (Song et al. 2021,
eq. 13) is

    dx / d lambda = alpha (x0_hat(x) - alpha x)

and along it d log p(x) / d lambda = -div (eq. 39). In lambda the field is smooth from noise to image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoise, velocity
from fromnoise.diffusion.likelihood.conditions import log_determinant, whiten
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import NoiseLevel, Schedule

State = tuple[Tensor, ...]
Derivative = Callable[[float, State], State]
"""d state / d lambda at (lambda, state)."""


class ODESolver(ABC):
    """A solver of initial value problems in lambda."""

    @abstractmethod
    def solve(self, derivative: Derivative, state: State, start: float, end: float) -> State:
        """Integrate from ``start`` to ``end``, in either direction.

        Args:
            derivative: d state / d lambda.
            state: tensors (B, ...) at ``start``.
            start: lambda.
            end: lambda.

        Returns:
            The state at ``end``.
        """


@dataclass(frozen=True)
class RungeKutta(ODESolver):
    """The classical fourth-order Runge-Kutta method with equal steps; the images of a batch are independent.

    Args:
        steps: how many, of four evaluations each.
    """

    steps: int = 25

    def solve(self, derivative: Derivative, state: State, start: float, end: float) -> State:
        """As ``ODESolver.solve``."""
        h = (end - start) / self.steps
        for i in range(self.steps):
            at = start + i * h
            k1 = derivative(at, state)
            k2 = derivative(at + h / 2, _add(state, k1, h / 2))
            k3 = derivative(at + h / 2, _add(state, k2, h / 2))
            k4 = derivative(at + h, _add(state, k3, h))
            mean = tuple((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
            state = _add(state, mean, h)
        return state


def _add(state: State, derivative: State, h: float) -> State:
    return tuple(s + h * d for s, d in zip(state, derivative, strict=True))


@dataclass(frozen=True)
class ScipySolver(ODESolver):
    """``scipy.integrate.solve_ivp`` in float64, with error control; the images of a batch share the steps.

    Args:
        tolerance: relative and absolute, of the root mean square over the batch.
        method: as of ``solve_ivp``.
    """

    tolerance: float = 1e-5
    method: str = "RK45"

    def solve(self, derivative: Derivative, state: State, start: float, end: float) -> State:
        """As ``ODESolver.solve``.

        Raises:
            ArithmeticError: the solver did not converge.
        """
        from scipy.integrate import solve_ivp

        def pack(parts: State) -> Any:
            return torch.cat([p.detach().to("cpu", torch.float64).flatten() for p in parts]).numpy()

        def unpack(flat: Any) -> State:
            values = torch.from_numpy(flat).split([p.numel() for p in state])
            return tuple(v.reshape(p.shape).to(p.device, p.dtype) for v, p in zip(values, state, strict=True))

        out = solve_ivp(
            lambda at, flat: pack(derivative(float(at), unpack(flat))),
            (start, end),
            pack(state),
            method=self.method,
            rtol=self.tolerance,
            atol=self.tolerance,
            t_eval=[end],
        )
        if not out.success:
            raise ArithmeticError(f"the probability flow could not be solved: {out.message}")
        return unpack(out.y[:, -1])


@dataclass(frozen=True)
class ProbabilityFlow:
    """The probability flow of a model between a clean and a noisy end.

    Args:
        denoise: the model, without the clipping of sampling: it makes the field non-smooth, and so does ``clip_x0``.
        schedule: of the noise.
        solver: of the ODE.
        clean_t: t of the clean end; None is the first step of a beta schedule, 1/1000 of a continuous schedule.
        offset: strength of the offset noise. The flow is the same: with y = C^(-1/2) x that of white noise. Its noisy
            end is N(0, C).
    """

    denoise: Denoise
    schedule: Schedule
    solver: ODESolver = RungeKutta()
    clean_t: float | None = None
    offset: float = 0.0

    @property
    def clean_level(self) -> NoiseLevel:
        """The clean end, above t = 0, where 8-bit images have no density."""
        return self.schedule.at(self.clean_t or 1 / (self.schedule.steps or 1000))

    @property
    def noisy_level(self) -> NoiseLevel:
        """The noisy end: t = 1, or one step before if the terminal SNR is 0, where lambda is infinite."""
        end = self.schedule.at(1.0)
        return end if bool(torch.isfinite(end.logsnr)) else self.schedule.at(1 - 1 / (self.schedule.steps or 1000))

    def transport(self, x: Tensor, level_from: NoiseLevel, level_to: NoiseLevel, cond: Tensor | None = None) -> Tensor:
        """Solve the flow from one noise level to another, in either direction.

        Args:
            x: images (B, C, H, W) at ``level_from``.
            level_from: start.
            level_to: end.
            cond: as of ``Denoiser.forward``.
        """

        def derivative(at: float, state: State) -> State:
            with torch.no_grad():
                return (self._velocity(at, state[0], cond),)

        return self.solver.solve(derivative, (x,), _lambda(level_from), _lambda(level_to))[0]

    def encode(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """The latent at ``noisy_level`` of images at ``clean_level`` (Song et al. 2021, sec. 4.3)."""
        return self.transport(x, self.clean_level, self.noisy_level, cond)

    def decode(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """The images at ``clean_level`` of latents at ``noisy_level``; inverse of ``encode``."""
        return self.transport(z, self.noisy_level, self.clean_level, cond)

    def log_prob(self, x: Tensor, noise: Noise | None = None, probes: int = 1, cond: Tensor | None = None) -> Tensor:
        """Log density of images at ``clean_level``: log N(z; 0, I) plus the integrated divergence.

        The divergence is the trace of the Jacobian; Hutchinson's estimator with Rademacher probes is unbiased (Song et
        al. 2021, eqs. 39 and 40).

        Args:
            x: (B, ...) at ``clean_level``.
            noise: of the probes, which are the same along the flow; None computes the exact trace, by one backward
                pass for each dimension.
            probes: probes averaged, one backward pass each.
            cond: as of ``Denoiser.forward``.

        Returns:
            Nats, (B,).
        """
        size = x[0].numel()
        if noise is None:
            vectors = [s.reshape(1, *x.shape[1:]).expand_as(x) for s in torch.eye(size, dtype=x.dtype, device=x.device)]
        else:
            normal = (noise.normal(tuple(x.shape[1:]), Stream.PROBE, p, like=x) for p in range(probes))
            vectors = [torch.where(z < 0, -1.0, 1.0).to(x) for z in normal]

        def derivative(at: float, state: State) -> State:
            with torch.enable_grad():
                y = state[0].detach().requires_grad_(True)
                out = self._velocity(at, y, cond)
                traces = []
                for i, v in enumerate(vectors):
                    (vjp,) = torch.autograd.grad(out, y, v, retain_graph=i + 1 < len(vectors))
                    traces.append((vjp * v).flatten(1).sum(1))
            trace = torch.stack(traces).sum(0) / (1 if noise is None else probes)
            # per dimension, so that a solver's tolerance means the same for it as for a pixel
            return out.detach(), trace.detach() / size

        z, divergence = self.solver.solve(
            derivative, (x, x.new_zeros(len(x))), _lambda(self.clean_level), _lambda(self.noisy_level)
        )
        white = whiten(z, self.offset)
        log_normal = -0.5 * (
            (white**2 + math.log(2 * math.pi)).flatten(1).sum(1) + log_determinant(z.shape, self.offset)
        )
        return log_normal + size * divergence

    def _velocity(self, at: float, x: Tensor, cond: Tensor | None) -> Tensor:
        level = self.schedule.at(self.schedule.time_from_logsnr(torch.tensor(2 * at, dtype=torch.float64)))
        return velocity(x, self.denoise(x, level, cond, None), level)


def _lambda(level: NoiseLevel) -> float:
    """Logsnr / 2 of a level."""
    return float(level.logsnr) / 2
