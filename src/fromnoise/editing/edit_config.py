"""What all edits have in common: the model, the sampling settings and the samples to make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.diffusion.rng import Noise
from fromnoise.model import Model, Wrapper, no_wrapper
from fromnoise.pipeline import SamplingRun
from fromnoise.utils.device import ComputeConfig


@dataclass(frozen=True)
class EditConfig:
    """The settings of an edit.

    Attributes:
        model: on ``compute.device`` and in eval mode.
        config: sampler, steps and guidance; classifier-free guidance is off unless ``label`` is set.
        compute: device and precision.
        ids: numbers of the samples, int64 (N,); sample i depends on (seed, i) alone.
        seed: of all noise.
        label: the class or attributes to sample, as ``dataset_info.conditioning_for`` reads it; None is unconditional.
        batch: samples in one batch.
        wrap: further guidance, as of ``Model.guided``.
    """

    model: Model
    config: SamplingConfig
    compute: ComputeConfig
    ids: Tensor
    seed: int = 0
    label: str | None = None
    batch: int = 64
    wrap: Wrapper = no_wrapper

    def sampling_run(
        self, begin: Callable[[Noise, Tensor], Tensor], wrap_outermost: Wrapper = no_wrapper
    ) -> SamplingRun:
        """The sampling run from t = 1 to t = 0.

        Args:
            begin: as of ``SamplingRun``.
            wrap_outermost: as of ``Model.guided``.

        Raises:
            UserError: impossible steps or an unknown label, or an inverse problem with a distilled model.
        """
        if wrap_outermost is not no_wrapper:
            self.model.require_denoiser("an inverse problem")
        config = self.config if self.label is not None else self.config.model_copy(update={"guidance": 1.0})
        return SamplingRun(
            self.model.guided(config, self.wrap, wrap_outermost),
            self.model.sampler(config),
            self.model.levels(config),
            self.model.noise(config, self.ids, self.seed),
            begin,
            conditioning_for(self.model.dataset_info, self.label, self.ids),
            self.model.decode if self.model.latent_space is not None else None,
        )
