"""A diffusion model: the denoiser, its training loss, and everything that sampling needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise import registry
from fromnoise.config import Recipe, SamplingConfig
from fromnoise.config.component import ComponentConfig
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.data.pixels import to_float
from fromnoise.diffusion import guidance, losses, samplers, schedules
from fromnoise.diffusion.denoiser import Denoise, Denoiser
from fromnoise.diffusion.rng import Noise
from fromnoise.model.component import component
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

Wrapper = Callable[[Denoise], Denoise]
"""Wraps a denoiser in guidance."""
CONTINUOUS_STEPS = 250
"""Sampling steps of a continuous schedule where neither the recipe nor the sampler sets a number."""


def no_wrapper(denoise: Denoise) -> Denoise:
    """No guidance."""
    return denoise


@dataclass(frozen=True)
class Model:
    """A denoiser with its recipe and a description of its images."""

    recipe: Recipe
    dataset_info: DatasetInfo
    denoiser: Denoiser

    @property
    def schedule(self) -> schedules.Schedule:
        """The noise schedule."""
        return self.denoiser.schedule

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.denoiser.parameters() if p.requires_grad)

    # ---- what training needs

    @property
    def module(self) -> Denoiser:
        """What is trained and saved: the denoiser."""
        return self.denoiser

    def with_module(self, module: nn.Module) -> Model:
        """The model with another denoiser of the same kind."""
        return replace(self, denoiser=module)

    def training_inputs(
        self, pixels: Tensor, labels: Tensor | None, compute: ComputeConfig
    ) -> tuple[Tensor, Tensor | None]:
        """Clean images in [-1, 1] on the network's device, and their condition.

        Args:
            pixels: uint8 (B, C, H, W).
            labels: classes (B,), attributes (B, A), or None.
            compute: device and memory format.

        Returns:
            x0, float32 (B, C, H, W), and the labels or pseudo-labels, None for an unconditional model.
        """
        x0 = to_float(pixels.to(compute.device, non_blocking=True)).contiguous(memory_format=compute.memory_format)
        if self.denoiser.pseudo_labels is not None:
            return x0, self.denoiser.pseudo_labels.assign(x0)
        if not self.dataset_info.is_conditional or labels is None:
            return x0, None
        return x0, labels.to(compute.device, non_blocking=True)

    def training_loss(self) -> losses.DiffusionLoss:
        """The training loss that the recipe names."""
        config = self.recipe.loss
        distance = registry.get("distance", config.distance.kind)
        objective = component(
            "objective",
            config.objective,
            distance=distance,
            weighting=component("weighting", config.weighting),
            schedule=self.schedule,
            variance=self.variance(self.recipe.sample),
        )
        return losses.DiffusionLoss(
            self.denoiser,
            objective,
            component("time_sampler", config.time_sampler, timesteps=self.schedule.steps or 1000),
            seed=self.recipe.train.seed,
            offset_noise=config.offset_noise,
            label_dropout=config.label_dropout,
        )

    def variance(self, config: SamplingConfig) -> float | None:
        """The variance of ancestral steps, as of ``reverse_variance``."""
        return reverse_variance(self.denoiser, config)

    # ---- what sampling needs

    def sampler(self, config: SamplingConfig) -> samplers.Sampler:
        """The sampler.

        Raises:
            UserError: it needs more steps.
        """
        sampler = component("sampler", config.sampler, schedule=self.schedule)
        steps = self.steps(config)
        if steps < sampler.min_steps:
            raise UserError(
                f"sampler {config.sampler.kind} needs at least {sampler.min_steps} steps, not {steps}: "
                "use more steps, or sampler ddim"
            )
        return sampler

    def steps(self, config: SamplingConfig, sampler: samplers.Sampler | None = None) -> int:
        """The number of sampling steps: that of ``config``, or the sampler's default within those of the schedule."""
        if config.steps is not None:
            return config.steps
        available, default = self.schedule.steps, (sampler or self._default_sampler(config)).default_steps
        return min(default or available or CONTINUOUS_STEPS, available or default or CONTINUOUS_STEPS)

    def _default_sampler(self, config: SamplingConfig) -> samplers.Sampler:
        """The sampler of ``config``, for its default steps and grid."""
        return registry.build("sampler", config.sampler.kind, config.sampler.options(), schedule=self.schedule)

    def levels(self, config: SamplingConfig, sampler: samplers.Sampler | None = None) -> list[schedules.NoiseLevel]:
        """The noise levels of sampling, decreasing to the clean image.

        Args:
            config: steps and grid.
            sampler: whose defaults count where ``config`` has none; None is that of ``config``.

        Raises:
            UserError: more steps than the schedule has, or a grid that it does not allow.
        """
        grid = config.grid
        if grid is not None:
            kind, options = grid.kind, grid.options()
        else:
            kind, options = (sampler or self._default_sampler(config)).default_grid, {}
        if grid is None and not bool(torch.isfinite(self.schedule.at(1.0).logsnr)):
            kind = "uniform"  # grids in log-SNR do not exist where it is infinite
        try:
            return registry.build("grid", kind, options, schedule=self.schedule, steps=self.steps(config, sampler))
        except ValueError as e:
            raise UserError(str(e)) from None

    def guided(
        self, config: SamplingConfig, wrap: Wrapper = no_wrapper, wrap_outermost: Wrapper = no_wrapper
    ) -> Denoise:
        """The denoiser with guidance and clipping.

        Args:
            config: guidance scale, method, interval and clipping.
            wrap: further guidance, around that of the scale and within the interval.
            wrap_outermost: a wrapper at every noise level, around all but the clipping.

        Raises:
            UserError: the guidance method refuses its options.
        """
        data = self.recipe.data
        pseudo_labels = self.denoiser.pseudo_labels is not None and self.dataset_info.class_names is None
        conditional = data.labels or data.attributes or pseudo_labels
        # labels may still be given to a classifier that guides
        plain: Denoise = self.denoiser if conditional else guidance.Unconditional(self.denoiser)
        denoise = plain
        if config.guidance != 1:
            denoise = component("guidance", config.guidance_method, denoise=denoise, scale=config.guidance)
        denoise = wrap(denoise)
        span = config.interval_logsnr
        if config.interval is not None:
            late, early = self.schedule.logsnr(torch.tensor(config.interval[::-1], dtype=torch.float64)).tolist()
            span = (late, early)
        if span is not None and denoise is not plain:
            denoise = guidance.IntervalGuidance(denoise, plain, *span)
        return clipped(wrap_outermost(denoise), config)

    def default_labels(self, ids: Tensor, seed: int, stratified: bool = True) -> Tensor | None:
        """Pseudo-labels for samples without a label, as of ``PseudoLabels.sample``, (B,); or None."""
        pseudo_labels = self.denoiser.pseudo_labels
        return pseudo_labels.sample(seed, ids, stratified) if pseudo_labels is not None else None

    def noise(self, config: SamplingConfig, ids: Tensor, seed: int) -> Noise:
        """The random numbers of samples: with the offset noise of training, truncated if ``config`` says so."""
        return Noise(seed, ids, self.recipe.loss.offset_noise, config.truncation)

    def shape(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """(C, H, W) of samples of a ``size``; None is that of the training images.

        Raises:
            UserError: a size below 1, or the network has a fixed size.
        """
        channels, *own = self.dataset_info.shape
        if size is not None and min(size) < 1:
            raise UserError(f"the size {size[0]}x{size[1]} has no pixel: give a height and width of at least 1")
        if size is None or list(size) == own:
            return self.dataset_info.shape
        if getattr(self.denoiser.network, "fixed_size", False):
            raise UserError(f"this network is built for {own[0]}x{own[1]} pixels only: leave out the size")
        return channels, *size


def reverse_variance(denoiser: Denoiser, config: SamplingConfig) -> float | None:
    """The variance of ancestral steps: the sampler's, or 0 (small) where none is set; None is the learned one."""
    chosen = getattr(config.sampler, "variance", None)
    return 0.0 if chosen is None and not denoiser.learned_variance else chosen


def clipped(denoise: Denoise, config: SamplingConfig) -> Denoise:
    """The denoiser with its x_0 kept within [-1, 1], by clipping or dynamic thresholding, if ``config`` says so."""
    if config.threshold is not None:
        return guidance.Threshold(denoise, config.threshold)
    return guidance.Clip(denoise) if config.clip else denoise


def with_sampler(config: SamplingConfig, sampler: str | dict[str, Any] | ComponentConfig) -> SamplingConfig:
    """``config`` with another sampler, at that sampler's default steps and grid.

    Raises:
        ValueError: unknown sampler or option (pydantic's ValidationError).
    """
    kind = sampler if isinstance(sampler, str) else sampler["kind"] if isinstance(sampler, dict) else sampler.kind
    changed: dict[str, Any] = {"sampler": sampler}
    if kind != config.sampler.kind:
        changed |= {"steps": None, "grid": None}
    return SamplingConfig.model_validate(config.model_dump() | changed)
