"""The whole recipe, and the checks that its sections agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, model_validator

from fromnoise.config.component import Component, Section
from fromnoise.config.sections import (
    ClusteringConfig,
    DataConfig,
    DiffusionConfig,
    EMAConfig,
    EvaluationConfig,
    LatentConfig,
    LossConfig,
    Positive,
    SamplingConfig,
    TrainConfig,
)

BUDGETS = ("steps", "epochs", "images", "minutes")
"""Keys of ``train`` of which exactly one sets the length of training."""


class Recipe(Section):
    """All settings of a run."""

    name: str = "custom"
    """name of the recipe; runs/NAME is the default run directory"""
    about: str = ""
    """description of the recipe in one line"""
    cost: str = ""
    """cost of training, and who measured it"""
    quality: str = ""
    """quality of the samples, and who measured it"""
    expected_loss: tuple[Positive, Positive] | None = None
    """range of the held-out loss at the end of the budget, for the recipe as it is"""
    loss_source: str = ""
    """who measured expected_loss, and how"""
    data: DataConfig = DataConfig()
    network: Annotated[Any, Component("network", "unet", "network")] = "unet"
    autoencoder: (
        Annotated[Any, Component("autoencoder", "convolutional", "autoencoder; left out: a diffusion model of pixels")]
        | None
    ) = None
    reconstruction: (
        Annotated[
            Any,
            Component("reconstruction", "regularized", "loss of the autoencoder; with it the autoencoder is trained"),
        ]
        | None
    ) = None
    latent: LatentConfig = LatentConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig(steps=10_000)
    ema: EMAConfig = EMAConfig()
    sample: SamplingConfig = SamplingConfig()
    published: SamplingConfig | None = None
    """sampling of the published system, for ``fromnoise sample --as-published``"""
    evaluation: EvaluationConfig = EvaluationConfig()
    clustering: ClusteringConfig = ClusteringConfig()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other sections, without the checks that the sections agree; ``change`` makes them."""
        return cast(Self, BaseModel.model_copy(self, update=update, deep=deep))

    @property
    def timesteps(self) -> int | None:
        """T of a beta schedule; None for a continuous one."""
        schedule = self.diffusion.schedule
        betas = getattr(schedule, "betas", None)
        return len(betas) if betas is not None else getattr(schedule, "steps", None)

    @property
    def pseudo_labels(self) -> int:
        """The largest number of pseudo-labels; 0 if the model is conditioned on labels or attributes."""
        return 0 if self.data.labels or self.data.attributes else self.data.pseudo_labels

    @property
    def pseudo_label_means(self) -> bool:
        """Whether the network sees the mean images of the pseudo-labels."""
        return self.data.pseudo_label_means and self.pseudo_labels > 0

    @model_validator(mode="after")
    def _check_budget(self) -> Recipe:
        budget = [k for k in BUDGETS if getattr(self.train, k) is not None]
        if len(budget) != 1:
            raise ValueError(f"train needs one budget of {', '.join(BUDGETS)}; it has {' and '.join(budget) or 'none'}")
        if self.train.batch % self.train.accumulate:
            raise ValueError(
                f"train.batch {self.train.batch} is not divisible by train.accumulate {self.train.accumulate}: "
                "change one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_diffusion(self) -> Recipe:
        schedule, target, objective = (
            c.kind for c in (self.diffusion.schedule, self.diffusion.target, self.loss.objective)
        )
        if self.timesteps is None and (target == "posterior-mean" or objective in ("vlb", "hybrid")):
            raise ValueError(
                "target posterior-mean and objectives vlb and hybrid need a beta schedule: "
                f"choose diffusion.schedule linear, cosine or sigmoid, not {schedule}"
            )
        if objective in ("vlb", "hybrid") and self.timesteps is not None and self.timesteps < 2:
            raise ValueError(f"objective {objective} needs at least 2 diffusion steps")
        learned = self.diffusion.learned_variance
        if (learned and objective not in ("hybrid", "vlb")) or (objective == "hybrid" and not learned):
            raise ValueError(
                "a learned variance is trained by the variational bound: set both diffusion.learned_variance true and "
                "loss.objective hybrid (or vlb), or neither"
            )
        if self.diffusion.clip_x0 and objective in ("vlb", "hybrid"):
            raise ValueError(
                f"diffusion.clip_x0 does not work with objective {objective}, where nothing would bring a clipped "
                "prediction back: set loss.objective simple, or leave it out"
            )
        if self.diffusion.zero_terminal_snr:
            self._check_zero_terminal_snr()
        for key, sample in (("sample", self.sample), ("published", self.published)):
            if sample is not None and sample.steps is not None and sample.steps > (self.timesteps or sample.steps):
                raise ValueError(
                    f"{key}.steps {sample.steps} is more than the {self.timesteps} steps of the schedule: "
                    f"set {key}.steps to at most that many"
                )
        return self

    @model_validator(mode="after")
    def _check_conditions(self) -> Recipe:
        if self.data.labels and self.data.attributes:
            raise ValueError(
                "a model is conditioned on labels or on attributes: set one of data.labels and data.attributes"
            )
        if self.sample.guides_by_condition and not (self.data.labels or self.data.attributes or self.pseudo_labels):
            raise ValueError(
                "sample.guidance needs a conditional model: set data.labels true, or leave sample.guidance out"
            )
        if self.sample.guides_by_early_version and not self.ema.weak_at:
            raise ValueError(
                f"sample.guidance {self.sample.guidance:g} by autoguidance needs a weaker version of the model: set "
                "ema.weak_at, such as 0.12, or set sample.guidance 1"
            )
        return self

    @model_validator(mode="after")
    def _check_autoencoder(self) -> Recipe:
        latents = self.autoencoder is not None and self.reconstruction is None
        if self.latent.source and not latents and not self.data.large_recipe:
            raise ValueError("--autoencoder (latent.source) is for diffusion of latents: use recipe latent")
        if latents and self.loss.objective.kind in ("vlb", "hybrid"):
            raise ValueError(
                f"objective {self.loss.objective.kind} codes pixels of 8 bits, not latents: set loss.objective simple"
            )
        if self.autoencoder is not None and self.data.augmentation is not None:
            raise ValueError(
                "data.augmentation moves pixels, which a model of latents and an autoencoder do not see: leave it out"
            )
        if self.autoencoder is None:
            if self.reconstruction is not None:
                raise ValueError(
                    'reconstruction is the loss of an autoencoder: set autoencoder, such as "convolutional"'
                )
            return self
        if self.reconstruction is not None:
            if self.data.labels or self.data.attributes:
                raise ValueError("an autoencoder is not conditioned: leave out data.labels and data.attributes")
            if self.evaluation.times:
                raise ValueError("an autoencoder is evaluated by fromnoise evaluate: leave out evaluation.times")
            return self
        if self.sample.clip or self.sample.threshold is not None:
            raise ValueError("latents are not bounded by 1: set sample.clip false and leave out sample.threshold")
        if self.loss.self_conditioning and self.loss.self_conditioning_clip:
            raise ValueError("latents are not bounded by 1: set loss.self_conditioning_clip false")
        if self.diffusion.clip_x0:
            raise ValueError("latents are not bounded by 1: set diffusion.clip_x0 false")
        if self.pseudo_labels:
            raise ValueError("pseudo-labels are clusters of pixels: set data.pseudo_labels 0 with an autoencoder")
        return self

    def _check_zero_terminal_snr(self) -> None:
        if self.timesteps is None or self.timesteps < 2:
            raise ValueError(
                "zero_terminal_snr rescales a beta schedule: choose diffusion.schedule linear, cosine or sigmoid"
            )
        if "eps" in (self.diffusion.target.kind, getattr(self.diffusion.target, "target", None)):
            raise ValueError(
                "with zero_terminal_snr the last step is pure noise, where target eps does not determine x_0: "
                "choose diffusion.target v or x0"
            )
        if self.loss.time_sampler.kind == "lognormal":
            raise ValueError(
                "time sampler lognormal never takes t = 1, so with zero_terminal_snr the level where sampling starts "
                "is never trained: choose loss.time_sampler uniform"
            )
        if self.loss.weighting.kind in ("min-snr", "p2", "snr"):
            raise ValueError(
                f"weighting {self.loss.weighting.kind} is 0 at pure noise, so with zero_terminal_snr the level where "
                "sampling starts is never trained: choose loss.weighting constant"
            )
        if self.sample.grid is not None and self.sample.grid.kind in ("logsnr", "karras"):
            raise ValueError(
                f"grid {self.sample.grid.kind} needs a finite log-SNR at t = 1, which zero_terminal_snr removes: "
                "choose sample.grid uniform"
            )
