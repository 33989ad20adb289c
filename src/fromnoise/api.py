"""The library's interface: load, sample, train, save.

import fromnoise as fn

model = fn.load("runs/digits")
images = model.sample(16, sampler="dpmpp-2m", steps=20, seed=0)

denoiser = fn.Denoiser(MyNet(), schedule=fn.schedules.linear(1000), target=fn.targets.Eps())
for report in fn.Trainer(denoiser, images, batch=128, lr=2e-4, steps=5_000, out="runs/mine"):
print(report.loss)
model = fn.load("runs/mine", network=MyNet())
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fromnoise import checkpoint
from fromnoise.config import Recipe, SamplingConfig, change, parse, to_config
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.data import Data
from fromnoise.data.convert import as_data
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.diffusion.samplers import Sampler
from fromnoise.diffusion.schedules import BetaSchedule
from fromnoise.model import Model, build, with_sampler
from fromnoise.pipeline import Samples, SampleStep, collect, label_text, sample_steps
from fromnoise.run_dir import RunDir
from fromnoise.training.progress import StepReport
from fromnoise.training.run import resume, run_steps
from fromnoise.training.trainer import Trainer as TrainingLoop
from fromnoise.utils.device import ComputeConfig, select_device


def load(source: str | Path, *, network: nn.Module | None = None, device: str | None = None) -> Pipeline:
    """Load a model to sample from.

    Args:
        source: a run directory or a .safetensors file.
        network: the module whose weights the file holds, for a model with a network of its own; a file never names
            code to import.
        device: "cpu", "cuda", "cuda:1" or "mps"; None is the best available.

    Raises:
        UserError: there is no such file, it is damaged, or it needs ``network``.
    """
    return Pipeline(checkpoint.load_model(source, network=network).model, device=device)


def sample(source: str | Path, n: int = 1, **options: Any) -> Tensor:
    """Samples of a saved model, uint8 (n, C, H, W): ``load(source).sample(n, **options)``."""
    return load(source).sample(n, **options)


def save(pipeline: Pipeline, path: str | Path) -> None:
    """Save a model as one .safetensors file, which ``load`` reads.

    Raises:
        UserError: the file cannot be written.
    """
    pipeline.save(path)


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
            ValueError: an unknown sampler or option.
        """
        config, own = self._config(sampler, steps, guidance, options)
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
        from tqdm.auto import tqdm

        steps = self.steps(n, **options)
        config, own = self._config(
            options.get("sampler"), options.get("steps"), options.get("guidance"), _sampling_keys(options)
        )
        total = math.ceil(n / options.get("batch", 64)) * (len(self.model.levels(config, own)) - 1)
        hidden = not progress if progress is not None else not (_in_notebook() or sys.stderr.isatty())
        with tqdm(total=total, unit="step", disable=hidden) as bar:
            return collect(steps, frames, lambda step: bar.update())

    def save(self, path: str | Path) -> None:
        """Save the model as one .safetensors file, which ``load`` reads.

        Raises:
            UserError: the file cannot be written.
        """
        checkpoint.save_model(path, self.model, self.denoiser.state_dict(), {"step": 0})

    def _config(
        self,
        sampler: str | dict[str, Any] | Sampler | None,
        steps: int | None,
        guidance: float | None,
        options: dict[str, Any],
    ) -> tuple[SamplingConfig, Sampler | None]:
        """The sampling configuration, and the sampler if it is an object."""
        config, own = self.recipe.sample, sampler if isinstance(sampler, Sampler) else None
        changed = {k: v for k, v in {"steps": steps, "guidance": guidance}.items() if v is not None} | options
        try:
            if own is not None:
                config = config.model_copy(update={"steps": None, "grid": None})
            elif sampler is not None:
                config = with_sampler(config, sampler)  # pyright: ignore[reportArgumentType]
            return config.model_copy(update=changed), own
        except ValidationError as e:
            error = e.errors()[0]
            where = ".".join(map(str, error["loc"]))
            raise ValueError(f"{where}: {str(error['msg']).removeprefix('Value error, ')}") from None


_STEP_ARGUMENTS = ("sampler", "steps", "seed", "label", "guidance", "size", "first", "batch")


def _sampling_keys(options: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k not in _STEP_ARGUMENTS}


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def recipe_of(denoiser: Denoiser, info: DatasetInfo, **values: Any) -> Recipe:
    """The recipe that describes a denoiser made in Python.

    Args:
        denoiser: its network is written down as ``custom`` unless it is a registered one that keeps its options.
        info: of its images.
        values: further values by dotted key with ``__`` for the dot.

    Raises:
        ValueError: its schedule or target is not registered.
        UserError: a value is out of range.
    """
    schedule = denoiser.schedule
    try:
        written = to_config("schedule", schedule)
    except ValueError:
        if not isinstance(schedule, BetaSchedule):
            raise
        written = {"kind": "betas", "betas": schedule.betas.tolist()}
    recipe = parse(
        {
            "network": "custom",
            "data": {"source": "", "labels": info.class_names is not None},
            "diffusion": {
                "schedule": written,
                "target": to_config("target", denoiser.target),
                "learned_variance": denoiser.learned_variance,
            },
            "loss": {
                "objective": "hybrid" if denoiser.learned_variance else "simple",
                "self_conditioning": denoiser.self_conditioning,
                "self_conditioning_clip": denoiser.self_conditioning_clip,
            },
            "sample": {"sampler": "dpmpp-2m", "steps": min(20, schedule.steps or 20)},
        }
    )
    return change(recipe, {key.replace("__", "."): value for key, value in values.items()})


def open_model(model: Denoiser | Recipe | str, images: Any, labels: Any = None, **values: Any) -> tuple[Model, Data]:
    """A model to train, and its data.

    Args:
        model: a denoiser, a recipe, or the name of a recipe or a .toml file.
        images: as of ``as_data``; None opens the recipe's own data.
        labels: class of each image.
        values: recipe values by dotted key, with ``__`` for the dot.

    Raises:
        UserError: the data cannot be read, or a value is out of range.
    """
    from fromnoise.config import load as load_recipe

    changed = {key.replace("__", "."): value for key, value in values.items()}
    if isinstance(model, Denoiser):
        data = as_data(images, labels=labels)
        info = DatasetInfo(data.shape, data.class_names if labels is not None else None, data.fingerprint)
        return Model(change(recipe_of(model, info), changed), info, model), data
    recipe = change(model, changed) if isinstance(model, Recipe) else load_recipe(model, changed)
    if images is None:
        data = open_data(recipe, lambda line: None)
    else:
        d = recipe.data
        data = as_data(images, labels=labels, size=d.size, channels=d.channels, holdout=d.holdout)
        if labels is not None:
            recipe = change(recipe, {"data.labels": True})
    return build(recipe, dataset_info(recipe, data)), data


class Trainer:
    """Trains a denoiser or a recipe on images; iterating it trains, one ``StepReport`` a step.

        for report in Trainer(denoiser, images, batch=128, lr=2e-4, steps=5_000, out="runs/mine"):
            print(report.step, report.loss)

    With ``out`` the run directory holds checkpoints, reports and the model; the same call resumes bit for bit.
    """

    def __init__(
        self,
        model: Denoiser | Recipe | str,
        images: Any = None,
        *,
        labels: Any = None,
        steps: int | None = None,
        epochs: float | None = None,
        minutes: float | None = None,
        batch: int | None = None,
        lr: float | None = None,
        seed: int | None = None,
        out: str | Path | None = None,
        device: str | None = None,
        precision: str = "auto",
        progress: bool | None = None,
        **values: Any,
    ) -> None:
        """Open the data and build the model.

        Args:
            model: a denoiser, a recipe, or the name of a recipe or a .toml file.
            images: tensors, arrays, a path, a SPEC, a torch ``Dataset`` or ``DataLoader``; None is the recipe's data.
            labels: class of each image.
            steps: budget in optimizer steps.
            epochs: budget in passes over the images.
            minutes: budget in minutes.
            batch: images a step.
            lr: learning rate.
            seed: of weights, order and noise.
            out: the run directory; None keeps everything in memory.
            device: as of ``load``.
            precision: as of ``Pipeline``.
            progress: show a progress bar; None does in terminals and notebooks.
            values: further recipe values, with ``__`` for the dot: ``train__optimizer="muon"``.

        Raises:
            UserError: the data cannot be read, or a value is out of range.
        """
        flags = {"steps": steps, "epochs": epochs, "minutes": minutes, "batch": batch, "lr": lr, "seed": seed}
        chosen = {f"train__{k}": v for k, v in flags.items() if v is not None}
        if isinstance(model, Denoiser):
            chosen = {"train__previews": 0, "sample__count": 0} | chosen
        self.model, self.data = open_model(model, images, labels, **(chosen | values))
        self.out = Path(out) if out is not None else None
        self._progress = progress
        self._compute = select_device(device, precision)
        self._loop: TrainingLoop | None = None

    @property
    def recipe(self) -> Recipe:
        """Every choice of the run."""
        return self.model.recipe

    def __iter__(self) -> Iterator[StepReport]:
        """Train until the budget is used."""
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=self._compute.device.type == "cpu", mixed_precision="no", device_placement=False)
        if self.out is None:
            loop = self._loop = TrainingLoop(self.model, self.data, self._compute, accelerator)
            loop.fit_pseudo_labels()
            yield from loop.run()
            return
        with contextlib.closing(RunDir(self.out)) as run_dir:
            run_dir.check(self.recipe)
            loop = self._loop = TrainingLoop(self.model, self.data, self._compute, accelerator, run_dir.load_state)
            run_dir.open(self.recipe)
            resume(loop, run_dir, run_dir.log)
            if loop.budget_used < 1:
                yield from run_steps(loop, run_dir, accelerator.is_main_process, run_dir.log)

    def run(self) -> Pipeline:
        """Train to the end; the trained model."""
        for _ in self:
            pass
        return self.pipeline()

    def pipeline(self) -> Pipeline:
        """The model with its averaged weights, to sample from.

        Raises:
            ValueError: nothing was trained yet.
        """
        if self._loop is None:
            raise ValueError("nothing was trained yet: iterate the trainer, or call run()")
        return Pipeline(replace(self.model, denoiser=self._loop.ema_denoiser()), device=str(self._compute.device))
