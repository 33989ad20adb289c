"""Interpolation between images, and samples that share an intermediate latent (Ho et al. 2020, sec. 4.3 and 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.data import to_float, to_uint8
from fromnoise.diffusion.likelihood.ode import ProbabilityFlow, RungeKutta
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.samplers import DDIM, Ancestral, Sampler
from fromnoise.diffusion.sampling import initial_noise, sampling_loop, uniform
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.model import Model
from fromnoise.pipeline import check_finite
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


def shared_latents(
    model: Model, config: SamplingConfig, compute: ComputeConfig, depths: list[float], count: int, seed: int = 0
) -> list[Tensor]:
    """Samples that share x_t, for several t (Ho et al. 2020, fig. 7).

    One trajectory is sampled from t = 1 down to t, and ``count`` trajectories from there to 0.

    Args:
        model: on ``compute.device`` and in eval mode.
        config: steps, guidance and clipping; the sampler is the ancestral one, because a deterministic sampler would
            make equal samples.
        compute: device and precision.
        depths: times t in (0, 1].
        count: samples for each depth.
        seed: of the noise.

    Returns:
        For each depth uint8 (count, C, H, W).
    """
    levels = uniform(model.schedule, min(config.steps or 250, model.schedule.steps or 250))
    step, out, ids = Ancestral(model.variance(config)), [], torch.arange(count)
    like = torch.empty(0, device=compute.device)
    for t in depths:
        branch = min(range(len(levels) - 1), key=lambda i: abs(float(levels[i].t) - t))
        trunk = Noise(seed, torch.zeros(1, dtype=torch.long))
        x = initial_noise(model.shape(None), trunk, like).to(memory_format=compute.memory_format)
        if branch:
            x = _denoise_along(model, compute, config, step, levels[: branch + 1], x, trunk)
        # below the branch another seed: sample 0 must not continue with the noise of the trunk
        x = _denoise_along(
            model, compute, config, step, levels[branch:], x.expand(count, -1, -1, -1), Noise(seed + 1, ids)
        )
        out.append(_pixels(model, compute, x))
    return out


def interpolate(
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
    """Interpolate between two images at time t (Ho et al. 2020, sec. 4.4).

    Both images are noised to t, mixed linearly and denoised; the noise of each is the same for all points. With
    ``flow`` both are encoded to t along the probability flow, mixed by ``slerp`` and decoded.

    Args:
        model: on ``compute.device`` and in eval mode.
        config: sampler, steps, guidance and clipping.
        compute: device and precision.
        ends: the two images, uint8 (2, C, H, W).
        depth: t in (0, 1].
        points: number of images including the ends, at least 2.
        flow: encode and decode along the probability flow.
        seed: of the noise.

    Returns:
        uint8 (points, C, H, W).

    Raises:
        UserError: the images do not have the model's shape, or the depth is out of range.
    """
    if tuple(ends.shape[1:]) != model.dataset_info.shape:
        raise UserError(f"the images have shape {tuple(ends.shape[1:])}, the model has {model.dataset_info.shape}")
    if not 0 < depth <= 1:
        raise UserError(f"--depth {depth:g} is out of range: use a time in (0, 1]")
    x0 = model.encode(to_float(ends.to(compute.device)).contiguous(memory_format=compute.memory_format))
    weight = torch.linspace(0, 1, points, device=x0.device, dtype=x0.dtype).reshape(-1, 1, 1, 1)
    levels = model.levels(config)
    first = min(range(len(levels) - 1), key=lambda i: abs(float(levels[i].t) - depth))
    if flow:
        return _interpolate_by_flow(model, config, compute, x0, weight, levels[first])
    eps = Noise(seed, torch.arange(2)).normal(tuple(x0.shape[1:]), Stream.EPS, like=x0)
    a, b = levels[first].noisy(x0, eps).split(1)
    noise = Noise(seed, torch.zeros(points, dtype=torch.long))  # the same for all points
    x = _denoise_along(
        model, compute, config, model.sampler(config), levels[first:], (1 - weight) * a + weight * b, noise
    )
    return _pixels(model, compute, x)


def _interpolate_by_flow(
    model: Model, config: SamplingConfig, compute: ComputeConfig, x0: Tensor, weight: Tensor, level: NoiseLevel
) -> Tensor:
    model.require_denoiser("encoding along the probability flow")
    flow = ProbabilityFlow(model.denoiser, model.schedule, RungeKutta())
    level = min(level, flow.noisy_level, key=lambda v: float(v.t))
    with compute.autocast():
        a, b = flow.transport(x0, flow.clean_level, level, _null_labels(model, x0)).split(1)
        mixed = slerp(a, b, weight)
        x = flow.transport(mixed, level, flow.clean_level, _null_labels(model, mixed))
    levels = [flow.clean_level, model.schedule.at(0.0)]
    noise = Noise(0, torch.arange(len(x)))
    return _pixels(model, compute, _denoise_along(model, compute, config, DDIM(), levels, x, noise))


def _pixels(model: Model, compute: ComputeConfig, x: Tensor) -> Tensor:
    """Finished images or latents as uint8 (B, C, H, W) on the CPU."""
    with torch.inference_mode(), compute.autocast():
        return to_uint8(model.decode(x)).cpu()


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Spherical linear interpolation (Shoemake 1985).

    (sin((1 - w) theta) a + sin(w theta) b) / sin(theta), theta the angle between a and b

    Args:
        a: (1, ...).
        b: (1, ...).
        weight: w of ``b`` in [0, 1], (N, 1, ...).

    Returns:
        (N, ...).
    """
    cos = (a * b).sum() / (a.norm() * b.norm())
    angle = torch.acos(cos.clamp(-1 + 1e-6, 1 - 1e-6))
    return (torch.sin((1 - weight) * angle) * a + torch.sin(weight * angle) * b) / torch.sin(angle)


def _null_labels(model: Model, x: Tensor) -> Tensor | None:
    """The null label of each image (B,); None for a model without labels."""
    return torch.full((len(x),), -1, device=x.device) if model.dataset_info.class_names is not None else None


def _denoise_along(
    model: Model,
    compute: ComputeConfig,
    config: SamplingConfig,
    step: Sampler,
    levels: list[NoiseLevel],
    x: Tensor,
    noise: Noise,
) -> Tensor:
    """Sample along ``levels`` from ``x`` at ``levels[0]``."""
    with torch.inference_mode(), compute.autocast():
        for reached in sampling_loop(model.guided(config), step, levels, x, noise, _null_labels(model, x)):
            x = reached.x
    check_finite(x)
    return x
