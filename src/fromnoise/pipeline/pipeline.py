"""A model that samples: the interface for Python programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from fromnoise import checkpoint
from fromnoise.config import Recipe, SamplingConfig
from fromnoise.config.component import OptionError
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.diffusion.samplers import Sampler
from fromnoise.model import Model, recipe_of, with_sampler
from fromnoise.pipeline.sampling_run import Samples, SampleStep, collect, sample_steps
from fromnoise.utils.device import ComputeConfig, select_device
from fromnoise.utils.progress_bar import progress_bar


class Pipeline:
    """A model that samples: its denoiser, its recipe and its device."""

    def __init__(
        self,
        model: Model | Denoiser,
        shape: tuple[int, int, int] | None = None,
        *,
        class_names: tuple[str, ...] | None = None,
        device: str | None = None,
        precision: str = "auto",
    ) -> None:
        """Move a model to a device.

        Args:
            model: a model, or a denoiser of one's own.
            shape: (C, H, W) of the images, for a denoiser.
            class_names: names of the classes, for a conditional denoiser.
            device: as of ``load``.
            precision: "auto" (bf16 where the hardware has it), "bf16" or "fp32".

        Raises:
            ValueError: a denoiser without ``shape``.
            UserError: there is no such device.
        """
        if isinstance(model, Denoiser):
            if shape is None:
                raise ValueError(
                    "Pipeline of a denoiser needs the shape of its images: Pipeline(denoiser, (3, 64, 64))"
                )
            info = DatasetInfo(shape, class_names)
            model = Model(recipe_of(model, info), info, model)
        self.model = model
        self.compute: ComputeConfig = select_device(device, precision)
        self.compute.to_device(model.denoiser)
        model.denoiser.eval()

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser."""
        return self.model.denoiser

    @property
    def recipe(self) -> Recipe:
        """Every choice of the model's training."""
        return self.model.recipe

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the training images."""
        return self.model.dataset_info.shape

    def steps(
        self,
        n: int = 1,
        *,
        sampler: str | dict[str, Any] | Sampler | None = None,
        steps: int | None = None,
        seed: int = 0,
        label: Any = None,
        guidance: float | None = None,
        size: int | tuple[int, int] | None = None,
        first: int = 0,
        batch: int = 64,
        **options: Any,
    ) -> Iterator[SampleStep]:
        """The sampling loop, one ``SampleStep`` a step and batch.

        Args:
            n: number of samples.
            sampler: a name, ``{"kind": name, **options}``, or a sampler of one's own; None is the recipe's.
            steps: number of steps; None is the recipe's, or the default of another sampler.
            seed: of all noise; sample i depends on (seed, i) only.
            label: a class by name or index, several that take turns, attributes by name, or the condition itself (n,).
            guidance: guidance scale; 1 is none.
            size: of the samples; None is that of the training images.
            first: number of the first sample.
            batch: samples at a time.
            options: further keys of the recipe's section sample, such as ``clip=False`` or ``grid="karras"``.

        Raises:
            UserError: impossible steps or size, or an unknown label.
            ValueError: n below 1, or an unknown sampler or option.
        """
        if n < 1:
            raise ValueError(f"n={n}: n must be 1 or more")
        config, own = self.sampling_config(sampler, steps, guidance, options)
        return sample_steps(
            self.model,
            config,
            self.compute,
            ids=torch.arange(first, first + n),
            seed=seed,
            label=label_text(label),
            batch=batch,
            size=(size, size) if isinstance(size, int) else size,
            sampler=own,
        )

    def sample(self, n: int = 1, *, progress: bool | None = None, **options: Any) -> Tensor:
        """Samples, uint8 (n, C, H, W).

        Args:
            n: number of samples.
            progress: show a progress bar; None does in terminals and notebooks.
            options: as of ``steps``.

        Raises:
            UserError: as of ``steps``.
            ValueError: as of ``steps``.
        """
        return self.samples(n, progress=progress, **options).images

    def samples(self, n: int = 1, *, frames: int = 0, progress: bool | None = None, **options: Any) -> Samples:
        """Samples with their labels and intermediate images; the arguments are those of ``sample``.

        Args:
            n: number of samples.
            frames: number of intermediate images of the first batch.
            progress: as of ``sample``.
            options: as of ``steps``.
        """
        steps = self.steps(n, **options)
        config, own = self.sampling_config(
            options.get("sampler"), options.get("steps"), options.get("guidance"), _sampling_keys(options)
        )
        total = math.ceil(n / options.get("batch", 64)) * (len(self.model.levels(config, own)) - 1)
        with progress_bar(progress, total=total, unit="step") as bar:
            return collect(steps, frames, lambda step: bar.update())

    def save(self, path: str | Path) -> None:
        """Save the model as one .safetensors file, which ``load`` reads.

        Raises:
            UserError: the file cannot be written.
        """
        checkpoint.save_model(path, self.model, self.denoiser.state_dict(), {"step": 0})

    def sampling_config(
        self,
        sampler: str | dict[str, Any] | Sampler | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[SamplingConfig, Sampler | None]:
        """The sampling configuration that arguments of ``steps`` describe, and the sampler if it is an object.

        Raises:
            ValueError: an unknown sampler or option, or a value out of range.
        """
        config, own = self.recipe.sample, sampler if isinstance(sampler, Sampler) else None
        changed = {k: v for k, v in {"steps": steps, "guidance": guidance}.items() if v is not None} | (options or {})
        try:
            if own is not None:
                config = config.model_copy(update={"steps": None, "grid": None})
            elif sampler is not None:
                config = with_sampler(config, sampler)  # pyright: ignore[reportArgumentType]
            return config.model_copy(update=changed), own
        except ValidationError as e:
            error = e.errors()[0]
            where = ".".join(map(str, error["loc"]))
            cause = error.get("ctx", {}).get("error")
            if isinstance(cause, OptionError):
                where += f".{cause.key}"
            raise ValueError(f"{where}: {str(error['msg']).removeprefix('Value error, ')}") from None


_STEP_ARGUMENTS = ("sampler", "steps", "seed", "label", "guidance", "size", "first", "batch")


def _sampling_keys(options: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k not in _STEP_ARGUMENTS}


def label_text(label: Any) -> Any:
    """A label as ``conditioning_for`` takes it: from an index, a name, several of either, or attributes by name."""
    if isinstance(label, Mapping):
        return ",".join(f"{name}={value}" for name, value in label.items())
    if isinstance(label, Sequence) and not isinstance(label, str):
        return ",".join(map(str, label))
    return label if label is None or isinstance(label, (str, Tensor)) else str(label)
