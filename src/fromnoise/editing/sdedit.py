"""SDEdit: noise an image to an intermediate time and denoise it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.editing.edit_config import EditConfig
from fromnoise.pipeline import SampleStep
from fromnoise.utils.errors import UserError


def vary(edit: EditConfig, x0: Tensor, depth: float) -> Iterator[SampleStep]:
    """Sample variations of an image (Meng et al. 2022, "SDEdit", alg. 1).

    x_t = alpha_t x0 + sigma_t eps at t = ``depth``, then sampling from t to 0

    Args:
        edit: the model and the sampling settings; of its steps, those below ``depth`` are taken.
        x0: the image, (1, C, H, W), pixels in [-1, 1]; a model of latents noises its latents.
        depth: t in (0, 1]: near 0 the image is kept, at 1 the samples do not depend on it.

    Returns:
        A generator of one ``SampleStep`` for each step and batch.

    Raises:
        UserError: when called: the depth is out of range, or as ``EditConfig.sampling_run``.
    """
    if not 0 < depth <= 1:
        raise UserError(f"--depth {depth:g} is out of range: use a number above 0 (same image) up to 1 (new image)")
    shape = edit.model.shape((x0.shape[-2], x0.shape[-1]))
    steps = edit.model.schedule.steps
    top = edit.model.schedule.at(depth if steps is None else max(1, round(depth * steps)) / steps)

    def begin(noise: Noise, like: Tensor) -> Tensor:
        clean = edit.model.encode(x0.to(like)).expand(len(noise.ids), -1, -1, -1)
        alpha, sigma = (torch.as_tensor(v).to(like) for v in (top.alpha, top.sigma))
        return alpha * clean + sigma * noise.image(shape, Stream.START, like=like)

    run = edit.sampling_run(begin)
    levels = [top, *(level for level in run.levels if level.t < top.t)]
    return replace(run, levels=levels).steps(edit.compute, edit.batch)
