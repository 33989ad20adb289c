"""From a recipe's names to objects: the only place that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fromnoise.networks  # noqa: F401  registers the networks
from fromnoise import registry
from fromnoise.config import DiffusionConfig, LossConfig, Recipe, SamplingConfig
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.data.pseudo_labels import PseudoLabels
from fromnoise.diffusion import guidance, losses, sampling, schedules, targets, time_samplers
from fromnoise.diffusion.denoiser import Denoise, Denoiser
from fromnoise.diffusion.rng import Noise
from fromnoise.diffusion.samplers import Sampler
from fromnoise.utils.errors import UserError

Wrapper = Callable[[Denoise], Denoise]
"""Puts a denoiser into a wrapper (``diffusion/guidance``)."""


def no_wrapper(denoise: Denoise) -> Denoise:
    """No wrapper."""
    return denoise


@dataclass(frozen=True)
class Model:
    """A recipe made into objects: a denoiser on a schedule, and what its images are."""

    recipe: Recipe
    dataset_info: DatasetInfo
    denoiser: Denoiser
    schedule: schedules.Schedule

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.denoiser.parameters() if p.requires_grad)

    def objective(self) -> losses.DiffusionLoss:
        """What training minimises."""
        chosen = self.recipe.loss
        return losses.DiffusionLoss(
            self.denoiser,
            _loss(chosen, self.schedule, self.variance(self.recipe.sample)),
            _times(chosen, self.schedule),
            seed=self.recipe.train.seed,
            offset_noise=chosen.offset_noise,
            label_dropout=chosen.label_dropout,
        )

    def variance(self, config: SamplingConfig) -> float | None:
        """That of the ancestral rule; None is the learned one, if the model has one and ``config`` says no other."""
        if config.variance is None and not self.denoiser.learned_variance:
            return 0.0
        return config.variance

    def levels(self, config: SamplingConfig) -> list[schedules.NoiseLevel]:
        """The levels that sampling visits.

        Raises:
            UserError: more steps than the table has.
        """
        try:
            grid = {
                "uniform": sampling.uniform,
                "trailing": sampling.uniform,  # the same by its other name
                "quadratic": sampling.quadratic,
                "logsnr": sampling.logsnr,
                "karras": sampling.karras,
                "leading": sampling.leading,
            }[config.grid]
            return grid(self.schedule, config.steps or self.schedule.steps or 250)
        except ValueError as e:
            raise UserError(str(e)) from None

    def guided(
        self, config: SamplingConfig, wrap: Wrapper = no_wrapper, wrap_outermost: Wrapper = no_wrapper
    ) -> Denoise:
        """The denoiser in its wrappers.

        Args:
            how: which, and how strong.
            wrap: guidance of the caller's own, around the classifier-free and within the interval.
            wrap_last: around all but the limits to the range of pixels, at every level.
        """
        data = self.recipe.data
        clusters = self.denoiser.pseudo_labels is not None and self.dataset_info.class_names is None
        told = data.labels or data.attributes or clusters
        plain: Denoise = (
            self.denoiser if told else guidance.Unconditional(self.denoiser)
        )  # a classifier may hear labels alone
        denoise = plain
        if config.guidance != 1:
            denoise = guidance.ClassifierFreeGuidance(denoise, config.guidance, config.rescale)
        denoise = wrap(denoise)
        span = config.interval_logsnr
        if config.interval is not None:
            late, early = self.schedule.logsnr(torch.tensor(config.interval[::-1], dtype=torch.float64)).tolist()
            span = (late, early)
        if span is not None and denoise is not plain:
            denoise = guidance.IntervalGuidance(denoise, plain, *span)
        return limited(wrap_outermost(denoise), config)

    def default_labels(self, ids: Tensor, seed: int) -> Tensor | None:
        """What samples are told if nothing is asked: clusters by their shares (B,); None for a model without."""
        pseudo_labels = self.denoiser.pseudo_labels
        return pseudo_labels.sample(seed, ids) if pseudo_labels is not None else None

    def noise(self, config: SamplingConfig, ids: Tensor, seed: int) -> Noise:
        """The noise of samples: that of the forward process which the model learned, and truncated if asked."""
        return Noise(seed, ids, self.recipe.loss.offset_noise, config.truncation)

    def shape(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """(C, H, W) of pictures of this ``size``; None for that of the training images.

        Raises:
            UserError: the network is built for one size.
        """
        channels, *own = self.dataset_info.shape
        if size is None or list(size) == own:
            return self.dataset_info.shape
        if self.recipe.network.kind == "pulfer":
            raise UserError(f"this network is built for {own[0]}x{own[1]} pixels alone: leave out the size")
        return channels, *size


def limited(denoise: Denoise, config: SamplingConfig) -> Denoise:
    """The denoiser with x_0 kept within the range of pixels."""
    if config.threshold is not None:
        return guidance.Threshold(denoise, config.threshold)
    return guidance.Clip(denoise) if config.clip else denoise


def sampler(config: SamplingConfig, model: Model) -> Sampler:
    """The sampler by name.

    Raises:
        UserError: it needs more steps.
    """
    variance = model.variance(config)
    options = {
        "ancestral": {"variance": variance},
        "ddim": {"eta": config.eta},
        "heun": {"churn": config.churn},
        "pc": {"variance": variance, "langevin_snr": config.langevin_snr},
    }.get(config.sampler)
    chosen: Sampler = registry.build("sampler", config.sampler, options, schedule=model.schedule)
    steps = config.steps or model.schedule.steps or 250
    if steps < chosen.min_steps:
        raise UserError(
            f"sampler {config.sampler} needs at least {chosen.min_steps} steps, not {steps}: take more, or sampler ddim"
        )
    return chosen


def build(recipe: Recipe, dataset_info: DatasetInfo, seed: int | None = None, device: str = "cpu") -> Model:
    """Make the model that a recipe describes, with fresh weights.

    Args:
        recipe: every choice.
        facts: shape and labels of the data.
        seed: of the initial weights; None takes the recipe's.
        device: where the weights are made; "meta" makes none, for counting.

    Raises:
        UserError: the choices cannot work together.
    """
    table = _schedule(recipe.diffusion)
    goal = {
        "eps": lambda: targets.Eps(),
        "x0": lambda: targets.X0(),
        "v": lambda: targets.V(),
        "karras": lambda: targets.EDM(recipe.diffusion.deviation),
        "mean": lambda: targets.PosteriorMean(table),
    }[recipe.diffusion.target]()
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(recipe.train.seed if seed is None else seed)
        try:
            net = _network(recipe, dataset_info)
        except ValueError as e:
            raise UserError(f"this network cannot be built: {e}") from None
    denoiser = Denoiser(
        net,
        table,
        goal,
        self_conditioning=recipe.loss.self_conditioning,
        learned_variance=recipe.diffusion.learned_variance,
        pseudo_labels=PseudoLabels(recipe.pseudo_labels, dataset_info.shape) if recipe.pseudo_labels else None,
    )
    return Model(recipe, dataset_info, denoiser, table)


def _schedule(config: DiffusionConfig) -> schedules.Schedule:
    if config.schedule == "cosine-continuous":
        return schedules.ContinuousCosine()
    table = {
        "linear": lambda steps: schedules.linear(steps, config.beta_start, config.beta_end, rescale=config.rescale),
        "cosine": schedules.cosine,
        "sigmoid": schedules.sigmoid,
    }[config.schedule](config.steps)
    return schedules.zero_terminal_snr(table) if config.zero_terminal else table


def _loss(config: LossConfig, table: schedules.Schedule, variance: float | None) -> losses.Objective:
    if config.weighting == "bound":
        return losses.VLB(table, variance)
    weighting = {
        "hybrid": lambda: losses.ConstantWeighting(),
        "simple": lambda: losses.ConstantWeighting(),
        "min-snr": lambda: losses.MinSNR(config.gamma or 5.0),
        "p2": lambda: losses.P2(config.k, config.gamma or 1.0),
    }[config.weighting]()
    regression = losses.Regression(
        {"mse": losses.mse, "mae": losses.mae, "huber": losses.huber}[config.metric], weighting
    )
    return losses.Hybrid(regression, losses.VLB(table, None)) if config.weighting == "hybrid" else regression


def _times(config: LossConfig, table: schedules.Schedule) -> time_samplers.TimeSampler:
    return {
        "uniform": lambda: time_samplers.Uniform(),
        "stratified": lambda: time_samplers.Stratified(),
        "lognormal": lambda: time_samplers.LogNormal(config.noise_mean, config.noise_deviation),
        "importance": lambda: time_samplers.Importance(table.steps or 1000),
    }[config.times]()


def _network(recipe: Recipe, dataset_info: DatasetInfo) -> nn.Module:
    channels, height, width = dataset_info.shape
    config = recipe.network
    return registry.build(
        "network",
        config.kind,
        config.model_dump(exclude={"kind"}) if config.kind == "unet" else {},
        in_channels=channels * (2 if recipe.loss.self_conditioning else 1),
        out_channels=channels * (2 if recipe.diffusion.learned_variance else 1),
        size=(height, width),
        classes=len(dataset_info.class_names) if dataset_info.class_names else recipe.pseudo_labels,
        attributes=[(a.mean, a.deviation) for a in dataset_info.attributes or ()],
        timesteps=recipe.diffusion.steps,
    )
