"""Sampling runs: the loop over batches and steps, and the collection of its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.diffusion.denoiser import Denoise
from fromnoise.diffusion.rng import Noise
from fromnoise.diffusion.samplers import Sampler
from fromnoise.diffusion.sampling import initial_noise, sampling_loop
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.model import AutoencoderModel, Model, Wrapper, no_wrapper
from fromnoise.pipeline.decoding import decoded_steps
from fromnoise.pipeline.sample_step import SampleStep
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class SamplingRun:
    """Everything that determines a set of samples.

    Attributes:
        denoise: the model with its guidance.
        sampler: computes a step.
        levels: decreasing noise levels.
        noise: of all samples; its ``ids`` are their numbers.
        begin: returns the images at ``levels[0]`` for the noise of a batch and a tensor of their kind.
        cond: condition of each sample, (N,) or (N, A), or None.
        decode: from latents to images in [-1, 1]; None for a model of pixels.
    """

    denoise: Denoise
    sampler: Sampler
    levels: Sequence[NoiseLevel]
    noise: Noise
    begin: Callable[[Noise, Tensor], Tensor]
    cond: Tensor | None = None
    decode: Callable[[Tensor], Tensor] | None = None

    def steps(self, compute: ComputeConfig, batch: int = 64) -> Iterator[SampleStep]:
        """Sample batch after batch: yields one ``SampleStep`` a step and batch.

        A batch that does not fit in the GPU's memory is halved, and so are those after it: no sample depends on it.

        Raises:
            UserError: not even one sample fits.
        """
        waiting = list(torch.arange(len(self.noise.ids)).split(batch))
        while waiting:
            part = waiting.pop(0)
            try:
                yield from self._batch_steps(compute, part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise UserError(
                        "one sample does not fit in memory: use --device cpu, or a smaller --size"
                    ) from None
                torch.cuda.empty_cache()
                waiting = list(torch.cat([part, *waiting]).split(-(-len(part) // 2)))

    def _batch_steps(self, compute: ComputeConfig, part: Tensor) -> Iterator[SampleStep]:
        """The steps of the samples at the places ``part``, as one batch."""
        noise = replace(self.noise, ids=self.noise.ids[part])
        cond = self.cond[part] if self.cond is not None else None
        x = self.begin(noise, torch.empty(0, device=compute.device)).to(memory_format=compute.memory_format)
        on_device = cond.to(compute.device) if cond is not None else None
        steps = sampling_loop(self.denoise, self.sampler, self.levels, x, noise, on_device)

        def decode(x: Tensor) -> Tensor:
            assert self.decode is not None
            with torch.inference_mode(), compute.autocast():
                return self.decode(x)

        while True:
            with torch.inference_mode(), compute.autocast():  # not around the yield: the caller's code is its own
                step = next(steps, None)
            if step is None:
                break
            yield SampleStep(noise.ids, cond, step, None if self.decode is None else decode)


def sample_steps(
    model: Model | AutoencoderModel,
    config: SamplingConfig,
    compute: ComputeConfig,
    *,
    ids: Tensor,
    seed: int = 0,
    label: str | Tensor | None = None,
    batch: int = 64,
    wrap: Wrapper = no_wrapper,
    size: tuple[int, int] | None = None,
    sampler: Sampler | None = None,
) -> Iterator[SampleStep]:
    """Sample, batch after batch; sample i depends on (seed, i) only, not on the batch.

    Args:
        model: on ``compute.device`` and in eval mode; of a variational autoencoder sampling is one step.
        config: sampler, steps, guidance and clipping.
        compute: device and precision.
        ids: numbers of the samples, int64 (N,).
        seed: of all noise.
        label: as of ``conditioning_for``, or the condition itself, (N,) or (N, A). With guidance and no label the
            classes take turns; a model of pseudo-labels samples them by their weights.
        batch: samples at a time.
        wrap: further guidance, as of ``Model.guided``.
        size: height and width of the samples; None is that of the training images.
        sampler: in place of that of ``config``.

    Returns:
        A generator of one ``SampleStep`` a step and batch.

    Raises:
        UserError: impossible steps or size, or an unknown label; raised at once, before the first step.
    """
    if isinstance(model, AutoencoderModel):
        conditioning_for(model.dataset_info, label if isinstance(label, str) else None, ids)  # refuses labels
        return decoded_steps(model, compute, ids, seed, batch, size)
    if label is None and config.guides_by_condition and model.dataset_info.class_names is not None:
        label = "all"  # guidance without a label would have no effect, at twice the cost
    shape = model.shape(size)
    cond = label if isinstance(label, Tensor) else conditioning_for(model.dataset_info, label, ids)
    if getattr(model.denoiser.network, "needs_label", False) and (cond is None or bool((cond < 0).any())):
        raise UserError(
            "this model was trained with a class for every image, so it samples with a label only: "
            "give --label all, or one of its classes"
        )
    own = sampler is None and wrap is no_wrapper and size in (None, model.dataset_info.shape[1:])
    tuned = model.tuned_steps(config) if own else None
    if tuned is not None:
        chosen, levels = tuned.sampler(model.schedule), tuned.levels(model.schedule)
    else:
        chosen = sampler or model.sampler(config)
        levels = model.levels(config, chosen)
    return SamplingRun(
        model.guided(config, wrap),
        chosen,
        levels,
        model.noise(config, ids, seed),
        lambda noise, like: initial_noise(shape, noise, like),
        cond if cond is not None else model.default_labels(ids, seed),
        model.decode if model.latent_space is not None else None,
    ).steps(compute, batch)


def check_finite(x: Tensor) -> None:
    """Check that samples (B, C, H, W) are finite: as pixels, infinity and NaN would look like an image.

    Raises:
        UserError: they are not.
    """
    if not bool(x.isfinite().all()):
        raise UserError(
            "the samples contain values that are not finite: clip (--clip), use more --steps, "
            "another --sampler or a lower --guidance, or train again with a lower --train.lr"
        )


@dataclass
class Samples:
    """Finished samples.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: classes (N,), or None.
        frames: intermediate images of the first batch, uint8 (B, C, H, W) each.
        times: t of each frame.
    """

    images: Tensor
    labels: Tensor | None
    frames: list[Tensor] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def collect(
    steps: Iterator[SampleStep],
    frames: int = 0,
    on_step: Callable[[SampleStep], object] = lambda step: None,
    *,
    estimates: bool = False,
    finite: bool = True,
) -> Samples:
    """Run the loop to its end and collect the samples.

    Args:
        steps: as yielded by ``sample_steps``.
        frames: number of the first batch's steps to keep, equally spaced, the last among them.
        on_step: called after each step.
        estimates: keep the predictions of x_0 as frames, not the noisy images.
        finite: check the samples.

    Raises:
        UserError: as ``check_finite``, if ``finite``.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    kept = Samples(torch.empty(0), None)
    wanted: set[int] = set()
    for sampled in steps:
        on_step(sampled)
        step = sampled.step
        if frames and not images:
            wanted = wanted or set(torch.linspace(0, step.total - 1, min(frames, step.total)).round().int().tolist())
            if step.index in wanted:
                kept.frames.append(sampled.x0 if estimates else sampled.images)
                kept.times.append(float((step.level_t if estimates else step.level_s).t))
        if sampled.last:
            if finite:
                check_finite(sampled.step.x)
            images.append(sampled.images)
            if sampled.cond is not None:
                labels.append(sampled.cond)
    kept.images = torch.cat(images).contiguous()
    kept.labels = torch.cat(labels) if labels else None
    return kept
