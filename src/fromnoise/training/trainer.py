"""Training from Python: a denoiser or a recipe, and images in any form."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fromnoise.config import Recipe, change
from fromnoise.config import load as load_recipe
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.data import Data
from fromnoise.data.convert import as_data
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.model import AutoencoderModel, Model, build_trainable, recipe_of
from fromnoise.pipeline import Autoencoder, Pipeline
from fromnoise.run_dir import RunDir
from fromnoise.training.base_model import keep_base, with_base
from fromnoise.training.distributed import make_accelerator, processes
from fromnoise.training.forecast import prepare_budget
from fromnoise.training.latents import cache_latents, fit_latent_space, load_source, with_autoencoder
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.progress import StepReport
from fromnoise.training.resume import resume
from fromnoise.training.run import run_steps
from fromnoise.training.threads import restored_threads
from fromnoise.training.tracking import tracker_of
from fromnoise.training.training_bar import TrainingBar
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError


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
            UserError: the data cannot be read, a value is out of range, or the tracker is not installed.
        """
        flags = {"steps": steps, "epochs": epochs, "minutes": minutes, "batch": batch, "lr": lr, "seed": seed}
        chosen = {f"train__{k}": v for k, v in flags.items() if v is not None}
        if isinstance(model, Denoiser):
            chosen = {"train__previews": 0, "sample__count": 0} | chosen
        self.out = Path(out) if out is not None else None
        self.model, self.data = open_model(model, images, labels, self.out, **(chosen | values))
        self._progress = progress
        self._compute = select_device(device, precision)
        run_dir = RunDir(self.out) if self.out is not None else None
        self.model = with_base(self.model, self._compute, run_dir)
        self._loop: TrainingLoop[Any] | None = None
        if tracker_of(self.recipe) is not None and out is None:
            raise UserError("a tracker follows a run directory: give out=, or leave train.tracker out")

    @property
    def recipe(self) -> Recipe:
        """Every choice of the run."""
        return self.model.recipe

    def __iter__(self) -> Iterator[StepReport]:
        """Train until the budget is used.

        Raises:
            UserError: the directory does not fit, or the processes of the launcher do not reach each other.
        """
        with processes(self._compute.device.type):
            yield from self._train()

    def _train(self) -> Iterator[StepReport]:
        accelerator = make_accelerator(self._compute.device.type == "cpu")
        if self.out is None:
            loop = self._loop = TrainingLoop(self.model, self.data, self._compute, accelerator)
            loop.fit_pseudo_labels()
            if self._fits_latents:
                fit_latent_space(loop, load_source(self.recipe, self.model.dataset_info))
            cache_latents(loop, lambda line: None)
            with TrainingBar(self._progress) as bar, restored_threads():
                prepare_budget(loop, lambda line: None)
                for report in loop.run():
                    bar.update(report)
                    yield report
            return
        with contextlib.closing(RunDir(self.out, warnings.warn)) as run_dir, restored_threads():
            run_dir.check(self.recipe)
            loop = self._loop = TrainingLoop(
                *(self.model, self.data, self._compute, accelerator),
                load_state=lambda skip: run_dir.load_state(skip, loop.read_state),
            )
            run_dir.open(self.recipe)
            keep_base(self.model, run_dir)
            new = self._fits_latents and not run_dir.has_states
            autoencoder = load_source(self.recipe, self.model.dataset_info) if new else None
            resume(loop, run_dir, run_dir.log, autoencoder)
            prepare_budget(loop, run_dir.log)
            if loop.budget_used < 1:
                yield from run_steps(loop, run_dir, accelerator.is_main_process, run_dir.log, self._progress)

    @property
    def _fits_latents(self) -> bool:
        return isinstance(self.model, Model) and self.model.latent_space is not None and self.model.base is None

    def run(self) -> Any:
        """Train to the end; the trained model, as of ``pipeline``."""
        for _ in self:
            pass
        return self.pipeline()

    def pipeline(self) -> Any:
        """The model with its averaged weights: a ``Pipeline`` to sample from, or an ``Autoencoder``.

        With ``train.sharding`` full all processes call it together, and only the first one gets the weights.

        Raises:
            ValueError: nothing was trained yet.
        """
        if self._loop is None:
            raise ValueError("nothing was trained yet: iterate the trainer, or call run()")
        self._loop.gather()
        model, device = self._loop.ema_model(), str(self._compute.device)
        return (
            Autoencoder(model, device=device) if isinstance(model, AutoencoderModel) else Pipeline(model, device=device)
        )


def open_model(
    model: Denoiser | Recipe | str, images: Any, labels: Any = None, out: Path | None = None, **values: Any
) -> tuple[Model | AutoencoderModel, Data]:
    """A model to train, and its data.

    Args:
        model: a denoiser, a recipe, or the name of a recipe or a .toml file.
        images: as of ``as_data``; None opens the recipe's own data.
        labels: class of each image.
        out: the run directory, whose run has its autoencoder already.
        values: recipe values by dotted key, with ``__`` for the dot.

    Raises:
        UserError: the data cannot be read, a value is out of range, or a recipe of latents has no autoencoder.
    """
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
        recipe = change(recipe, {"data.source": str(images) if isinstance(images, str | Path) else ""})
        if labels is not None:
            recipe = change(recipe, {"data.labels": True})
    recipe = with_autoencoder(recipe, RunDir(out) if out is not None else None)
    latents = recipe.autoencoder is not None and recipe.reconstruction is None
    if latents and not recipe.latent.source and not recipe.train.init_from:
        raise UserError(
            f"recipe {recipe.name} needs a trained autoencoder: give latent__source=, the run of "
            'Trainer("autoencoder", images, out=...)'
        )
    return build_trainable(recipe, dataset_info(recipe, data)), data
