"""Sampling as numbers: the coefficients with which each step combines images, predictions and noise.

A sampler that calls the network once a step is linear in what it has seen: x_s is a sum of x_t, the predictions of x_0
at this and earlier steps, and noise. So sampling needs no code but a loop, in any language.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoiser, Prediction
from fromnoise.diffusion.samplers import Sampler
from fromnoise.diffusion.schedules import NoiseLevel

KINDS = ("x", "x0", "noise")
_WINDOW = 8  # steps; a sampler that remembers more fails the comparison with random numbers
Term = tuple[str, int, float]
"""Kind, how many steps ago, coefficient."""


class NotLinear(ValueError):
    """A sampler cannot be written as coefficients; the message says why."""


def step_coefficients(sampler: Sampler, levels: Sequence[NoiseLevel]) -> list[list[Term]]:
    """The terms of x_s in each step: x_s = sum of coefficient * (x, x0 or noise of ``ago`` steps before this one).

    The sampler is run on unit vectors: the images, predictions and noise of the last ``_WINDOW`` steps are a basis.

    Raises:
        NotLinear: the sampler calls the network or draws noise more than once in a step, or is not linear.
    """
    basis = torch.eye(len(KINDS) * _WINDOW, dtype=torch.float64)

    def place(kind: str, index: int) -> int:
        return KINDS.index(kind) * _WINDOW + index % _WINDOW

    memory, found = sampler.start(), []
    for index in range(len(levels) - 1):
        vectors = {kind: basis[place(kind, index)].reshape(1, 1, 1, -1) for kind in KINDS}
        x, memory = _step(sampler, levels, index, vectors, memory)
        row = x.flatten()
        terms = [
            (kind, index - i, float(row[place(kind, i)]))
            for kind in KINDS
            for i in range(index, max(-1, index - _WINDOW), -1)
            if row[place(kind, i)] != 0
        ]
        if not all(math.isfinite(coefficient) for _, _, coefficient in terms):
            raise NotLinear("its steps have infinite coefficients on this schedule")
        found.append(terms)
    _check(sampler, levels, found)
    return found


def _step(
    sampler: Sampler, levels: Sequence[NoiseLevel], index: int, values: dict[str, Tensor], memory: Any
) -> tuple[Tensor, Any]:
    """One step, in which the network's prediction and the noise are given."""
    calls = {"x0": 0, "noise": 0}

    def denoise(y: Tensor, level: NoiseLevel) -> Prediction:
        calls["x0"] += 1
        if calls["x0"] > 1 or not torch.equal(y, values["x"]):
            raise NotLinear("it calls the network more than once in a step")
        return Prediction(values["x0"])

    def noise() -> Tensor:
        calls["noise"] += 1
        if calls["noise"] > 1:
            raise NotLinear("it draws noise more than once in a step")
        return values["noise"]

    x, _, memory = sampler.step(denoise, values["x"], levels[index], levels[index + 1], noise, memory)
    return x, memory


def _check(sampler: Sampler, levels: Sequence[NoiseLevel], found: list[list[Term]]) -> None:
    """Compare the coefficients with the sampler on random numbers, which a sampler that is not linear fails."""
    make = torch.Generator().manual_seed(0)
    past: list[dict[str, Tensor]] = []
    memory = sampler.start()
    for index, terms in enumerate(found):
        values = {kind: torch.randn(1, 1, 1, 4, dtype=torch.float64, generator=make) for kind in KINDS}
        past.insert(0, values)
        x, memory = _step(sampler, levels, index, values, memory)
        expected = sum((c * past[ago][kind] for kind, ago, c in terms), torch.zeros_like(x))
        if not torch.allclose(x, expected, rtol=1e-6, atol=1e-8):
            raise NotLinear("its steps are not linear in the predictions")


def prediction_coefficients(denoiser: Denoiser, level: NoiseLevel) -> dict[str, float]:
    """The network's input and its prediction of x_0 at a level.

    ``t`` and ``input_scale`` of network(input_scale x, t); x0 = ``x0_from_x`` x + ``x0_from_output`` output.
    """
    x, out = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).reshape(2, 1, 1, 1, 2)
    from_x, from_output = denoiser.target.x0(x, out, level).flatten().tolist()
    return {
        "t": float(denoiser.noise_conditioning.value(level)),
        "input_scale": float(denoiser.target.scale_input(x, level).flatten()[0]),
        "x0_from_x": from_x,
        "x0_from_output": from_output,
    }
