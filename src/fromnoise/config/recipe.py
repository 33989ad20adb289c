"""The whole recipe, and what its parts must agree on."""

from __future__ import annotations

from pydantic import model_validator

from fromnoise.config.sections import (
    ClusteringConfig,
    DataConfig,
    DiffusionConfig,
    EMAConfig,
    EvaluationConfig,
    LossConfig,
    NetworkConfig,
    Part,
    SamplingConfig,
    TrainConfig,
)

BUDGETS = ("steps", "epochs", "images", "minutes")
"""Keys of ``train`` of which one says how long."""


class Recipe(Part):
    """Every choice of a run."""

    name: str = "custom"
    """of the recipe; runs/NAME is its folder"""
    about: str = ""
    """one line for the list of recipes"""
    cost: str = ""
    """what training takes, and who measured it"""
    quality: str = ""
    """what comes out, and who measured it"""
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig(steps=10_000)
    ema: EMAConfig = EMAConfig()
    sample: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    clustering: ClusteringConfig = ClusteringConfig()

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        budget = [k for k in BUDGETS if getattr(self.train, k) is not None]
        if len(budget) != 1:
            raise ValueError(f"train needs one budget of {', '.join(BUDGETS)}; it has {' and '.join(budget) or 'none'}")
        continuous = self.diffusion.schedule == "cosine-continuous"
        if continuous and (self.diffusion.target == "mean" or self.loss.weighting in ("bound", "hybrid")):
            raise ValueError(
                "target mean and weightings bound and hybrid need a table of steps: "
                "take schedule linear, cosine or sigmoid"
            )
        if self.loss.weighting in ("bound", "hybrid") and self.diffusion.steps < 2:
            raise ValueError(f"weighting {self.loss.weighting} needs at least 2 diffusion steps")
        learned, weighting = self.diffusion.learned_variance, self.loss.weighting
        if (learned and weighting not in ("hybrid", "bound")) or (weighting == "hybrid" and not learned):
            raise ValueError(
                "a learned variance is trained by the bound: set both diffusion.learned_variance true and "
                "loss.weighting hybrid (or bound), or neither"
            )
        if self.diffusion.zero_terminal:
            self._agree_on_zero_terminal(continuous)
        if self.sample.steps is not None and not continuous and self.sample.steps > self.diffusion.steps:
            raise ValueError(
                f"sample.steps {self.sample.steps} is more than diffusion.steps {self.diffusion.steps}: "
                "take at most that many"
            )
        if self.train.batch % self.train.accumulate:
            raise ValueError(
                f"train.batch {self.train.batch} cannot be taken in {self.train.accumulate} equal parts: "
                "change one of train.batch and train.accumulate"
            )
        if self.train.weight_decay and self.train.optimizer != "adamw":
            raise ValueError("train.weight_decay is of AdamW: set train.optimizer adamw, or leave it out")
        if self.data.labels and self.data.attributes:
            raise ValueError("a model is told labels or attributes: set one of data.labels and data.attributes")
        told = self.data.labels or self.data.attributes or self.pseudo_labels
        if self.sample.guidance != 1 and not told:
            raise ValueError("sample.guidance needs a model that is told labels: set data.labels true, or leave it out")
        if self.network.kind != "unet" and (told or self.loss.self_conditioning or self.diffusion.learned_variance):
            raise ValueError(
                f"network {self.network.kind} takes no labels or clusters, no self-conditioning and learns no "
                "variance: take network.kind unet"
            )
        return self

    @property
    def pseudo_labels(self) -> int:
        """How many clusters of the data the model is told at most: none, if it is told labels or attributes."""
        return 0 if self.data.labels or self.data.attributes else self.data.pseudo_labels

    def _agree_on_zero_terminal(self, continuous: bool) -> None:
        if continuous or self.diffusion.steps < 2:
            raise ValueError("zero_terminal rescales a table of steps: take schedule linear, cosine or sigmoid")
        if self.diffusion.target == "eps":
            raise ValueError(
                "with zero_terminal the last step is noise alone, of which target eps says no image: take v or x0"
            )
        if self.loss.weighting in ("min-snr", "p2"):
            raise ValueError(
                f"weighting {self.loss.weighting} is 0 where there is noise alone: with zero_terminal sampling would "
                "begin with what was not learned; take weighting simple"
            )
        if self.sample.grid in ("logsnr", "karras"):
            raise ValueError(f"with zero_terminal grid {self.sample.grid} has no log-SNR to begin at: take uniform")
