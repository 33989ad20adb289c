"""What the training loop needs of a model."""

from __future__ import annotations

from typing import Any, Protocol, Self, TypeVar

from torch import Tensor, nn

from fromnoise.config import Recipe, SamplingConfig
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.utils.device import ComputeConfig


class Trainable(Protocol):
    """A model that ``TrainingLoop`` trains: a diffusion model or an autoencoder."""

    @property
    def recipe(self) -> Recipe:
        """Every choice of its training."""
        ...

    @property
    def dataset_info(self) -> DatasetInfo:
        """Shape and labels of its images."""
        ...

    @property
    def module(self) -> Any:
        """What is trained and saved."""
        ...

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        ...

    def with_module(self, module: nn.Module) -> Self:
        """The model with other weights: a module of the same kind as ``module``."""
        ...

    def training_loss(self) -> Any:
        """A module with a ``time_sampler``, called as ``loss(x0, positions, cond)``; it returns ``LossTerms``."""
        ...

    def training_inputs(
        self, pixels: Tensor, labels: Tensor | None, positions: Tensor, compute: ComputeConfig
    ) -> tuple[Tensor, Tensor | None]:
        """From stored images (B, C, H, W), labels and positions to what the loss takes: x0 and condition."""
        ...

    def network_evaluations(self, config: SamplingConfig) -> int:
        """Evaluations of the network that a sample takes."""
        ...


M = TypeVar("M", bound=Trainable)
