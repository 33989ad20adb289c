"""Drawing pictures from a model: the sampling loop over batches of sample numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.data import to_float, to_uint8
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.samplers import Sampler
from fromnoise.diffusion.sampling import Step, initial_noise, sampling_loop
from fromnoise.diffusion.schedules import NoiseLevel, Schedule
from fromnoise.model import Model, Wrapper, no_wrapper, sampler
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class SampleStep:
    """A step of a batch.

    Attributes:
        ids: numbers of the samples in this batch, (B,).
        cond: their classes, (B,) or None.
        step: where the loop is.
    """

    ids: Tensor
    cond: Tensor | None
    step: Step

    @property
    def last(self) -> bool:
        """Whether ``step.x`` are the finished pictures."""
        return self.step.index == self.step.total - 1


@dataclass(frozen=True)
class SamplingRun:
    """All that a batch of samples goes by.

    Attributes:
        denoise: the model in its wrappers.
        rule: what a step does.
        levels: falling.
        noise: of all samples; its ``ids`` are their numbers.
        begin: gives the images at ``levels[0]`` from the noise of a batch and a tensor of their kind.
        cond: what each sample is told, (N, ...), or None.
    """

    denoise: Denoise
    sampler: Sampler
    levels: Sequence[NoiseLevel]
    noise: Noise
    begin: Callable[[Noise, Tensor], Tensor]
    cond: Tensor | None = None


def draw(
    model: Model,
    config: SamplingConfig,
    compute: ComputeConfig,
    *,
    ids: Tensor,
    seed: int = 0,
    label: str | None = None,
    batch: int = 64,
    wrap: Wrapper = no_wrapper,
    size: tuple[int, int] | None = None,
) -> Iterator[SampleStep]:
    """Sample, batch after batch; picture i depends on (seed, i) alone.

    Args:
        model: placed on ``compute.device`` and in eval mode.
        how: rule, steps and guidance.
        compute: where and how precisely.
        ids: numbers of the samples, int64 (N,).
        seed: of all noise.
        label: as ``dataset_info.cond`` takes it; guidance alone deals out all classes. A model of clusters is told those that
            ``Model.default_labels`` gives.
        batch: samples at a time.
        wrap: further guidance, as ``Model.guided`` takes it.
        size: height and width of the pictures; None for those of the training images.

    Returns:
        A generator of one ``SampleStep`` a step and batch.

    Raises:
        UserError: impossible steps, size or an unknown label, at once.
    """
    if label is None and config.guidance != 1 and model.dataset_info.class_names is not None:
        label = "all"  # guidance without a label would guide to nothing, at twice the cost
    shape = model.shape(size)
    prediction = conditioning_for(model.dataset_info, label, ids)
    course = SamplingRun(
        model.guided(config, wrap),
        sampler(config, model),
        model.levels(config),
        model.noise(config, ids, seed),
        lambda noise, like: initial_noise(shape, noise, like),
        prediction if prediction is not None else model.default_labels(ids, seed),
    )
    return follow(course, compute, batch)


def follow(course: SamplingRun, compute: ComputeConfig, batch: int = 64) -> Iterator[SampleStep]:
    """Go a course, batch after batch: one ``SampleStep`` a step and batch.

    A batch that does not fit in the GPU's memory is halved, and so are those after it: no picture depends on it.

    Raises:
        UserError: not even one sample fits.
    """
    waiting = list(torch.arange(len(course.noise.ids)).split(batch))
    while waiting:
        part = waiting.pop(0)
        try:
            yield from _together(course, compute, part)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise UserError("not even one sample fits in memory: try --device cpu, or a smaller --size") from None
            torch.cuda.empty_cache()
            waiting = list(torch.cat([part, *waiting]).split(-(-len(part) // 2)))


def _together(course: SamplingRun, compute: ComputeConfig, part: Tensor) -> Iterator[SampleStep]:
    """Go a course with the samples at these places in one batch."""
    noise = replace(course.noise, ids=course.noise.ids[part])
    prediction = course.cond[part] if course.cond is not None else None
    x = course.begin(noise, torch.empty(0, device=compute.device)).to(memory_format=compute.memory_format)
    where = prediction.to(compute.device) if prediction is not None else None
    steps = sampling_loop(course.denoise, course.sampler, course.levels, x, noise, where)
    while True:
        with torch.inference_mode(), compute.autocast():  # not around the yield: the caller's code is its own
            reached = next(steps, None)
        if reached is None:
            break
        yield SampleStep(noise.ids, prediction, reached)


@dataclass
class Pictures:
    """Finished pictures.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: classes (N,), or None.
        frames: the first batch on its way, uint8 (B, C, H, W) each, clamped to the range of pixels.
        times: t of each frame.
    """

    images: Tensor
    labels: Tensor | None
    frames: list[Tensor] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def collect(
    steps: Iterator[SampleStep],
    frames: int = 0,
    on_step: Callable[[SampleStep], object] = lambda drawn: None,
    *,
    estimates: bool = False,
) -> Pictures:
    """Run the loop to its end and keep the pictures.

    Args:
        steps: as ``draw`` yields them.
        frames: how many of the first batch's steps to keep, equally spaced, the last among them.
        watch: called after each step.
        estimates: keep the estimates of x_0 as frames, not the noisy images.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    kept = Pictures(torch.empty(0), None)
    wanted: set[int] = set()
    for drawn in steps:
        on_step(drawn)
        step = drawn.step
        if frames and not images:
            wanted = wanted or set(torch.linspace(0, step.total - 1, min(frames, step.total)).round().int().tolist())
            if step.index in wanted:
                kept.frames.append(to_uint8(step.prediction.x0 if estimates else step.x).cpu())
                kept.times.append(float((step.level_t if estimates else step.level_s).t))
        if drawn.last:
            images.append(to_uint8(step.x).cpu())
            if drawn.cond is not None:
                labels.append(drawn.cond)
    kept.images = torch.cat(images).contiguous()
    kept.labels = torch.cat(labels) if labels else None
    return kept


FORWARD = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)


def noised(
    schedule: Schedule, pixels: Tensor, seed: int = 0, times: tuple[float, ...] = FORWARD
) -> tuple[list[Tensor], list[float]]:
    """The forward process: the same images and the same noise at growing times.

    Args:
        schedule: of the noise.
        pixels: uint8 (B, C, H, W).
        seed: of the noise.
        times: t in [0, 1].

    Returns:
        uint8 (B, C, H, W) for each time, and the times.
    """
    x0 = to_float(pixels)
    eps = Noise(seed, torch.arange(len(x0))).normal(tuple(x0.shape[1:]), Stream.EPS, like=x0)
    return [to_uint8(schedule.at(t).noisy(x0, eps)) for t in times], list(times)
