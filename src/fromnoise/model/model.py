"""A diffusion model: the denoiser, its training loss, and everything that sampling needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise import registry
from fromnoise.config import Recipe, SamplingConfig
from fromnoise.config.component import ComponentConfig
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.data.pixels import to_float
from fromnoise.diffusion import losses, samplers, schedules
from fromnoise.diffusion.denoiser import Denoise, Denoiser
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.model.component import component
from fromnoise.model.guided import Wrapper, guided, no_wrapper
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

CONTINUOUS_STEPS = 250
"""Sampling steps of a continuous schedule where neither the recipe nor the sampler sets a number."""


@dataclass(frozen=True)
class Model:
    """A denoiser with its recipe and a description of its images.

    Attributes:
        recipe: every choice.
        dataset_info: shape and labels of the data.
        denoiser: the network with its schedule and target.
        tuned: steps that were learned for this network (``fromnoise tune``), by their number.
        base: the frozen model from which training starts, ``train.init_from``; None where there is none, and in a
            model that was loaded.
    """

    recipe: Recipe
    dataset_info: DatasetInfo
    denoiser: Denoiser
    tuned: Mapping[int, samplers.TunedSteps] = field(default_factory=dict)
    base: Model | None = None

    @property
    def schedule(self) -> schedules.Schedule:
        """The noise schedule."""
        return self.denoiser.schedule

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.denoiser.parameters() if p.requires_grad)

    @property
    def is_guidable(self) -> bool:
        """Whether the guidance of the recipe has what it compares: labels, or a weaker version of the model."""
        if self.recipe.sample.guidance_method.kind == "autoguidance":
            return self.denoiser.weak_step is not None
        return self.dataset_info.is_conditional or self.denoiser.pseudo_labels is not None

    @property
    def latent_space(self) -> Any:
        """The latent space in which the model works, as of ``networks.latent_space``; None for a model of pixels."""
        return self.denoiser.latent_space

    @property
    def network(self) -> nn.Module:
        """The network that sampling evaluates."""
        return self.denoiser.network

    # ---- what training needs

    @property
    def module(self) -> Denoiser:
        """What is trained and saved: the denoiser."""
        return self.denoiser

    def with_module(self, module: nn.Module) -> Model:
        """The model with another denoiser of the same kind, for which no steps are tuned."""
        return replace(self, denoiser=module, tuned={})

    def training_inputs(
        self, pixels: Tensor, labels: Tensor | None, positions: Tensor, compute: ComputeConfig
    ) -> tuple[Tensor, Tensor | None]:
        """Clean images in [-1, 1], or latents, on the network's device, and their condition.

        Args:
            pixels: uint8 (B, C, H, W); or mean and deviation of latents, (B, 2 Z, h, w).
            labels: classes (B,), attributes (B, A), or None.
            positions: in the sequence of training images, (B,): with the seed they determine a sample of the latents.
            compute: device and memory format.

        Returns:
            x0, float32 (B, C, H, W), and the labels or pseudo-labels, None for an unconditional model.
        """
        x0 = pixels.to(compute.device, non_blocking=True)
        x0 = x0.float() if x0.is_floating_point() else to_float(x0)
        x0 = x0.contiguous(memory_format=compute.memory_format)
        if self.latent_space is not None:
            mean, deviation = x0.chunk(2, dim=1) if pixels.is_floating_point() else self.latent_moments(x0, compute)
            noise = Noise(self.recipe.train.seed, positions)
            x0 = mean + deviation * noise.normal(self.latent_space.shape, Stream.LATENT, like=mean)
        if self.denoiser.pseudo_labels is not None:
            return x0, self.denoiser.pseudo_labels.assign(x0)
        if not self.dataset_info.is_conditional or labels is None:
            return x0, None
        return x0, labels.to(compute.device, non_blocking=True)

    def compile(self) -> None:
        """Compile the network with torch.compile."""
        self.denoiser.network.compile()

    def next_command(self, run: object) -> str:
        """What to do with a trained model, for the end of a run in a directory."""
        return f"more samples: fromnoise sample {run} -n 100 --out more.png"

    def latent_moments(self, x0: Tensor, compute: ComputeConfig) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the standardized latents of images (B, C, H, W) in [-1, 1], (B, Z, h, w) each."""
        with compute.autocast():
            return self.latent_space.moments(x0)

    def training_loss(self) -> losses.DiffusionLoss:
        """The training loss that the recipe names."""
        config, augmentation = self.recipe.loss, self.recipe.data.augmentation
        distance = registry.get("distance", config.distance.kind)
        objective = component(
            "objective",
            config.objective,
            distance=distance,
            weighting=component("weighting", config.weighting),
            schedule=self.schedule,
            variance=self.variance(self.recipe.sample),
            base=self.base.denoiser if self.base is not None else None,
        )
        return losses.DiffusionLoss(
            self.denoiser,
            objective,
            component("time_sampler", config.time_sampler, timesteps=self.schedule.steps or 1000),
            seed=self.recipe.train.seed,
            offset_noise=config.offset_noise,
            label_dropout=config.label_dropout,
            augmentation=component("augmentation", augmentation) if augmentation is not None else None,
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

    def tuned_steps(self, config: SamplingConfig) -> samplers.TunedSteps | None:
        """The learned steps in place of ``sampler`` and ``levels``; None where ``config`` differs from their tuning.

        They replace the recipe's sampler and grid, with its clipping and the guidance scale that they were tuned with.
        """
        if not config.tuned or not self.tuned or config.truncation is not None:
            return None
        own, keys = self.recipe.sample, ("sampler", "grid", "clip", "threshold")
        if config.guidance != 1:
            keys += ("guidance_method", "interval", "interval_logsnr")
        if any(getattr(config, key) != getattr(own, key) for key in keys):
            return None
        found = self.tuned.get(self.steps(config))
        return found if found is not None and found.guidance == config.guidance else None

    def guided(
        self, config: SamplingConfig, wrap: Wrapper = no_wrapper, wrap_outermost: Wrapper = no_wrapper
    ) -> Denoise:
        """The denoiser with guidance and clipping.

        Args:
            config: guidance scale, method, interval and clipping.
            wrap: further guidance, around that of the scale and within the interval.
            wrap_outermost: a wrapper at every noise level, around all but the clipping.

        Raises:
            UserError: the guidance method refuses its options or has nothing to compare (labels, or a weaker version
                of the model), the model was distilled, or latents would be clipped.
        """
        return guided(self, config, wrap, wrap_outermost)

    def default_labels(self, ids: Tensor, seed: int, stratified: bool = True) -> Tensor | None:
        """Pseudo-labels for samples without a label, as of ``PseudoLabels.sample``, (B,); or None."""
        pseudo_labels = self.denoiser.pseudo_labels
        return pseudo_labels.sample(seed, ids, stratified) if pseudo_labels is not None else None

    def noise(self, config: SamplingConfig, ids: Tensor, seed: int) -> Noise:
        """The random numbers of samples: with the offset noise of training, truncated if ``config`` says so."""
        return Noise(seed, ids, self.recipe.loss.offset_noise, config.truncation)

    def network_evaluations(self, config: SamplingConfig) -> int:
        """Evaluations of the network that a sample takes."""
        per_step = self.sampler(config).evaluations * (1 if config.guidance in (0, 1) else 2)
        return (len(self.levels(config)) - 1) * per_step

    def evaluate_once(self, device: torch.device) -> None:
        """Evaluate the network on one image, to count the cost of an evaluation."""
        x = torch.zeros(1, *self.shape(None), device=device)
        labels = self.dataset_info.class_names is not None
        cond = torch.zeros(1, dtype=torch.int64, device=device) if labels else None
        self.denoiser(x, self.schedule.at(0.5, like=x), cond)

    def require_pixels(self, what: str) -> None:
        """Refuse what needs a model of pixels.

        Raises:
            UserError: the model works on latents.
        """
        if self.latent_space is not None:
            raise UserError(
                f"{what} works on pixels, and this model on the latents of an autoencoder: use a model of pixels, "
                "such as recipe images"
            )

    @property
    def is_distilled(self) -> bool:
        """Whether x_0 is one image that x_t can have come from, by ``fromnoise distill``, and not their mean."""
        return self.recipe.loss.objective.kind == "consistency"

    def require_denoiser(self, what: str) -> None:
        """Refuse what needs the posterior mean E[x_0 | x_t].

        Raises:
            UserError: the model was distilled.
        """
        if self.is_distilled:
            raise UserError(
                f"{what} needs the mean of x_0, which a distilled model does not predict: use the run that it was "
                "distilled from"
            )

    def shape(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """(C, H, W) of x_t: that of samples of a ``size``, or of their latents; None is that of the training images.

        Raises:
            UserError: a size below 1, or the network has a fixed size, or latents do not divide it.
        """
        channels, *own = self.dataset_info.shape
        if size is not None and min(size) < 1:
            raise UserError(f"the size {size[0]}x{size[1]} has no pixel: give a height and width of at least 1")
        if size is not None and list(size) != own and getattr(self.denoiser.network, "fixed_size", False):
            raise UserError(f"this network is built for {own[0]}x{own[1]} pixels only: leave out the size")
        height, width = size or own
        if self.latent_space is None:
            return channels, height, width
        try:
            return self.latent_space.shape_for(height, width)
        except ValueError as e:
            raise UserError(str(e)) from None

    def encode(self, x0: Tensor) -> Tensor:
        """What the diffusion starts from: images (B, C, H, W) in [-1, 1], or the mean of their latents."""
        return x0 if self.latent_space is None else self.latent_space.encode(x0)

    def decode(self, x0: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] from x_0: itself, or decoded latents."""
        return x0 if self.latent_space is None else self.latent_space.decode(x0)


def reverse_variance(denoiser: Denoiser, config: SamplingConfig) -> float | None:
    """The variance of ancestral steps: the sampler's, or 0 (small) where none is set; None is the learned one."""
    chosen = getattr(config.sampler, "variance", None)
    return 0.0 if chosen is None and not denoiser.learned_variance else chosen


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
