"""What a noisy image still knows: rate and distortion, what samples share from a depth on, and what lies between two.

Ho et al. 2020, sec. 4.3 and 4.4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.data import to_float, to_uint8
from fromnoise.diffusion.likelihood.ode import Flow, RungeKutta
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.samplers import DDIM, Ancestral, Sampler
from fromnoise.diffusion.sampling import initial_noise, sampling_loop, uniform
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.model import Model, sampler
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

OnProgress = Callable[[int], object]
"""Told how many steps more are done."""


def _down(
    model: Model,
    compute: ComputeConfig,
    config: SamplingConfig,
    step: Sampler,
    levels: list[NoiseLevel],
    x: Tensor,
    noise: Noise,
) -> Tensor:
    """Follow a rule down ``levels`` from ``x``."""
    cond = torch.full((len(x),), -1, device=x.device) if model.dataset_info.class_names is not None else None
    with torch.inference_mode(), compute.autocast():
        for reached in sampling_loop(model.guided(config), step, levels, x, noise, cond):
            x = reached.x
    return x


def shared(
    model: Model, config: SamplingConfig, compute: ComputeConfig, depths: list[float], count: int, seed: int = 0
) -> list[Tensor]:
    """Samples that share x_t, for several t (Ho et al. 2020, fig. 7): one way down to t, then ``count`` of their own.

    Args:
        model: placed on ``compute.device`` and in eval mode.
        how: steps and wrappers; the rule is the ancestral one, as a deterministic one would draw the same each time.
        compute: where.
        depths: times t in (0, 1].
        count: samples of each.
        seed: of the noise.

    Returns:
        For each depth uint8 (count, C, H, W).
    """
    levels = uniform(model.schedule, min(config.steps or 250, model.schedule.steps or 250))
    step, out, ids = Ancestral(model.variance(config)), [], torch.arange(count)
    like = torch.empty(0, device=compute.device)
    for t in depths:
        at = min(range(len(levels) - 1), key=lambda i: abs(float(levels[i].t) - t))
        one = Noise(seed, torch.zeros(1, dtype=torch.long))
        x = initial_noise(model.dataset_info.shape, one, like).to(memory_format=compute.memory_format)
        if at:
            x = _down(model, compute, config, step, levels[: at + 1], x, one)
        # other seeds below the branch than above it: sample 0 must not go on with the noise that led there
        x = _down(model, compute, config, step, levels[at:], x.expand(count, -1, -1, -1), Noise(seed + 1, ids))
        out.append(to_uint8(x).cpu())
    return out


def between(
    model: Model,
    config: SamplingConfig,
    compute: ComputeConfig,
    ends: Tensor,
    depth: float,
    points: int,
    *,
    flow: bool = False,
    seed: int = 0,
) -> Tensor:
    """Pictures between two, interpolated at depth t (Ho et al. 2020, sec. 4.4).

    As in the paper both are noised to t, each with noise of its own that is the same for every point, mixed linearly,
    and sampled down; or, by the flow, both are encoded to t, mixed on the sphere, and decoded.

    Args:
        model: placed on ``compute.device`` and in eval mode.
        how: rule and steps of the way down.
        compute: where.
        ends: uint8 (2, C, H, W).
        depth: t in (0, 1].
        points: pictures, the ends among them, at least 2.
        flow: by the flow.
        seed: of the noise.

    Returns:
        uint8 (points, C, H, W).

    Raises:
        UserError: the pictures have another shape than the model's, or the depth is out of range.
    """
    if tuple(ends.shape[1:]) != model.dataset_info.shape:
        raise UserError(f"the pictures are {tuple(ends.shape[1:])}, the model draws {model.dataset_info.shape}")
    if not 0 < depth <= 1:
        raise UserError(f"--depth {depth:g} is no time: take one in (0, 1]")
    x0 = to_float(ends.to(compute.device)).contiguous(memory_format=compute.memory_format)
    share = torch.linspace(0, 1, points, device=x0.device, dtype=x0.dtype).reshape(-1, 1, 1, 1)
    levels = model.levels(config)
    at = min(range(len(levels) - 1), key=lambda i: abs(float(levels[i].t) - depth))
    if flow:
        return _between_by_flow(model, config, compute, x0, share, levels[at])
    eps = Noise(seed, torch.arange(2)).normal(model.dataset_info.shape, Stream.EPS, like=x0)
    a, b = levels[at].noisy(x0, eps).split(1)
    same = Noise(seed, torch.zeros(points, dtype=torch.long))
    return to_uint8(
        _down(model, compute, config, sampler(config, model), levels[at:], (1 - share) * a + share * b, same)
    ).cpu()


def _between_by_flow(
    model: Model, config: SamplingConfig, compute: ComputeConfig, x0: Tensor, share: Tensor, level: NoiseLevel
) -> Tensor:
    carrier = Flow(model.denoiser, model.schedule, RungeKutta())
    level = min(level, carrier.last, key=lambda v: float(v.t))
    cond = torch.full((len(x0),), -1, device=x0.device) if model.dataset_info.class_names is not None else None
    with compute.autocast():
        a, b = carrier.between(x0, carrier.first, level, cond).split(1)
        mixed = slerp(a, b, share)
        told = torch.full((len(mixed),), -1, device=x0.device) if cond is not None else None
        x = carrier.between(mixed, level, carrier.first, told)
    last = [carrier.first, model.schedule.at(0.0)]
    return to_uint8(_down(model, compute, config, DDIM(), last, x, Noise(0, torch.arange(len(x))))).cpu()


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985): along the great circle, its length between theirs.

    Args:
        a: (1, ...).
        b: (1, ...).
        share: of ``b``, (N, 1, ...).
    """
    cos = (a * b).sum() / (a.norm() * b.norm())
    angle = torch.acos(cos.clamp(-1 + 1e-6, 1 - 1e-6))
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
