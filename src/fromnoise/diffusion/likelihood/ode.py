"""The score view: a model as a vector field, whose flow encodes, decodes and measures likelihood.

With lambda = log(alpha / sigma) = logsnr / 2 the probability flow of a variance-preserving process (Song et al. 2021,
eq. 13) is

    dx / d lambda = alpha (x_0_hat(x) - alpha x)

and along it d log p(x) / d lambda = -div (eq. 39). In this variable the field is smooth from noise to image.
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
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import NoiseLevel, Schedule

State = tuple[Tensor, ...]
Slope = Callable[[float, State], State]
"""d state / d lambda at (lambda, state)."""


class Solver(ABC):
    """Solves an initial value problem over lambda."""

    @abstractmethod
    def solve(self, slope: Slope, state: State, start: float, end: float) -> State:
        """The state at ``end`` of what is ``state`` at ``start``; each tensor is (B, ...)."""


@dataclass(frozen=True)
class RungeKutta(Solver):
    """The classical fourth-order method with equal steps: four evaluations each, no image knows of another.

    Attributes:
        steps: how many.
    """

    steps: int = 25

    def solve(self, slope: Slope, state: State, start: float, end: float) -> State:
        """Four slopes a step."""
        h = (end - start) / self.steps
        for i in range(self.steps):
            at = start + i * h
            k1 = slope(at, state)
            k2 = slope(at + h / 2, _add(state, k1, h / 2))
            k3 = slope(at + h / 2, _add(state, k2, h / 2))
            k4 = slope(at + h, _add(state, k3, h))
            mean = tuple((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
            state = _add(state, mean, h)
        return state


def _add(state: State, slope: State, h: float) -> State:
    return tuple(s + h * d for s, d in zip(state, slope, strict=True))


@dataclass(frozen=True)
class Adaptive(Solver):
    """scipy's solvers with error control, in float64; the images of a batch share their steps.

    Attributes:
        tolerance: relative and absolute, of the root mean square over the batch.
        method: as ``scipy.integrate.solve_ivp`` names it.
    """

    tolerance: float = 1e-5
    method: str = "RK45"

    def solve(self, slope: Slope, state: State, start: float, end: float) -> State:
        """As many evaluations as it takes.

        Raises:
            ArithmeticError: the solver gave up.
        """
        from scipy.integrate import solve_ivp

        def pack(parts: State) -> Any:
            return torch.cat([p.detach().to("cpu", torch.float64).flatten() for p in parts]).numpy()

        def unpack(flat: Any) -> State:
            values = torch.from_numpy(flat).split([p.numel() for p in state])
            return tuple(v.reshape(p.shape).to(p.device, p.dtype) for v, p in zip(values, state, strict=True))

        out = solve_ivp(
            lambda at, flat: pack(slope(float(at), unpack(flat))),
            (start, end),
            pack(state),
            method=self.method,
            rtol=self.tolerance,
            atol=self.tolerance,
            t_eval=[end],
        )
        if not out.success:
            raise ArithmeticError(f"the flow could not be solved: {out.message}")
        return unpack(out.y[:, -1])


@dataclass(frozen=True)
class Flow:
    """The probability flow of a model, between the clean end and the noise.

    Attributes:
        denoise: the model; a clip of x_0 would put kinks into the field.
        schedule: of the noise.
        solver: of the differential equation.
        clean: t of the clean end; None is the first step of a table, 1/1000 of a continuous schedule.
    """

    denoise: Denoise
    schedule: Schedule
    solver: Solver = RungeKutta()
    clean: float | None = None

    @property
    def first(self) -> NoiseLevel:
        """The clean end: at t = 0 itself the flow of an image of 8 bits has no density."""
        return self.schedule.at(self.clean or 1 / (self.schedule.steps or 1000))

    @property
    def last(self) -> NoiseLevel:
        """The noisy end: t = 1, or the step before where that is pure noise, which lambda never reaches."""
        end = self.schedule.at(1.0)
        return end if bool(torch.isfinite(end.logsnr)) else self.schedule.at(1 - 1 / (self.schedule.steps or 1000))

    def between(self, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, cond: Tensor | None = None) -> Tensor:
        """Carry ``x`` (B, C, H, W) from level ``level_t`` to ``level_s``, in either direction."""

        def slope(at: float, state: State) -> State:
            with torch.no_grad():
                return (self._velocity(at, state[0], cond),)

        return self.solver.solve(slope, (x,), _half(level_t), _half(level_s))[0]

    def encode(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """The noise that an image at ``first`` is decoded from (Song et al. 2021, sec. 4.3)."""
        return self.between(x, self.first, self.last, cond)

    def decode(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """The image at ``first`` that noise flows to."""
        return self.between(z, self.last, self.first, cond)

    def log_prob(self, x: Tensor, noise: Noise | None = None, probes: int = 1, cond: Tensor | None = None) -> Tensor:
        """Log density of images at ``first``, nats (B,): log N(z; 0, I) and the divergence along the way.

        Song et al. 2021, eq. 39; the trace by Hutchinson's estimator with random signs (their eq. 40), without bias.

        Args:
            x: (B, ...) at ``first``.
            noise: of the signs, one set for the whole way; None takes the exact trace, an evaluation's gradient for
                each dimension.
            probes: signs averaged.
            cond: what the model is told.
        """
        size = x[0].numel()
        if noise is None:
            signs = [s.reshape(1, *x.shape[1:]).expand_as(x) for s in torch.eye(size, dtype=x.dtype, device=x.device)]
        else:
            drawn = (noise.normal(tuple(x.shape[1:]), Stream.PROBE, p, like=x) for p in range(probes))
            signs = [torch.where(z < 0, -1.0, 1.0).to(x) for z in drawn]

        def slope(at: float, state: State) -> State:
            with torch.enable_grad():
                y = state[0].detach().requires_grad_(True)
                out = self._velocity(at, y, cond)
                traces = []
                for i, v in enumerate(signs):
                    (pulled,) = torch.autograd.grad(out, y, v, retain_graph=i + 1 < len(signs))
                    traces.append((pulled * v).flatten(1).sum(1))
            trace = torch.stack(traces).sum(0) / (1 if noise is None else probes)
            # a share of the dimensions, so that a tolerance means the same of it as of a pixel
            return out.detach(), trace.detach() / size

        z, gained = self.solver.solve(slope, (x, x.new_zeros(len(x))), _half(self.first), _half(self.last))
        normal = -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1)
        return normal + size * gained

    def _velocity(self, at: float, x: Tensor, cond: Tensor | None) -> Tensor:
        level = self.schedule.at(self.schedule.time_from_logsnr(torch.tensor(2 * at, dtype=torch.float64)))
        return velocity(x, self.denoise(x, level, cond, None), level)


def _half(level: NoiseLevel) -> float:
    """Lambda of a level."""
    return float(level.logsnr) / 2
