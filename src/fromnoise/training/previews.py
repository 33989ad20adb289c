"""The pictures that a run leaves.

Its data, the forward process, previews while it trains, curves, and the finished samples.
"""

from __future__ import annotations

import sys

import torch
from tqdm import tqdm

from fromnoise.config import SamplingConfig
from fromnoise.data import Data, shuffled_indices
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.model import Model
from fromnoise.pipeline import Samples, collect, forward_process, sample_steps
from fromnoise.reporting import image_io, plots
from fromnoise.run_dir import RunDir
from fromnoise.training.trainer import Trainer
from fromnoise.utils.device import ComputeConfig

_PREVIEW = 16
_FRAMES = 100


class Previews:
    """Draws into a run folder."""

    def __init__(self, folder: RunDir, compute: ComputeConfig) -> None:
        """Name the folder."""
        self.folder, self.compute = folder, compute

    def data(self, model: Model, data: Data) -> None:
        """The first batch, and images of it under more and more noise."""
        recipe = model.recipe.train
        first = data.train.get(
            shuffled_indices(len(data.train), recipe.seed, range(min(64, recipe.batch, len(data.train))))
        )
        image_io.save(image_io.grid(first), self.folder.samples / "first_batch.png")
        image_io.save(
            image_io.forward_strip(*forward_process(model.schedule, first[:6], recipe.seed)),
            self.folder.path / "forward.png",
        )

    def preview(self, trainer: Trainer) -> None:
        """A few samples with raw and with averaged weights, from the same noise, by a short deterministic rule."""
        trainer.refresh()
        base = trainer.model.recipe.sample
        steps = min(20, base.steps or 20, trainer.model.schedule.steps or 20)
        config = SamplingConfig(sampler="ddim", steps=steps, clip=base.clip)
        kinds = [("raw weights", trainer.model.denoiser)]
        if trainer.ema.active:
            name = "best epoch" if trainer.model.recipe.ema.best_epoch else "averaged weights"
            kinds.append((name, trainer.averaged))
        panels = [
            (name, image_io.grid(self._draw(trainer, denoiser, config, _PREVIEW).images)) for name, denoiser in kinds
        ]
        image_io.save(image_io.side_by_side(panels), self.folder.samples / f"step_{trainer.progress.step:08d}.png")

    def curves(self) -> None:
        """The loss over the steps and over t."""
        reports = self.folder.read_reports()
        if reports:
            plots.loss_plot(reports, self.folder.path / "loss.png")

    def finished(self, trainer: Trainer) -> list[str]:
        """Samples by the recipe's own rule, and the reverse process; the names of the files."""
        config = trainer.model.recipe.sample
        if not config.count:
            return []
        trainer.refresh()
        total = -(-config.count // 64) * (len(trainer.model.levels(config)) - 1)
        with tqdm(total=total, desc="sampling", unit="step", file=sys.stderr) as bar:
            drawn = self._draw(trainer, trainer.averaged, config, config.count, bar)
        out = self.folder.path
        names = trainer.model.dataset_info.class_names
        image_io.save_images(drawn.images, out / "samples.png", drawn.labels, names=names)
        image_io.save_gif([f[:25] for f in drawn.frames], out / "reverse.gif")
        image_io.save(image_io.reverse_strip([f[:6] for f in drawn.frames], drawn.times), out / "reverse.png")
        return ["samples.png", "reverse.gif", "reverse.png"]

    def _draw(
        self, trainer: Trainer, denoiser: Denoiser, config: SamplingConfig, count: int, bar: tqdm | None = None
    ) -> Samples:
        own = trainer.model
        model = Model(own.recipe, own.dataset_info, denoiser.eval())
        label = "all" if own.dataset_info.class_names is not None else None
        steps = sample_steps(
            model, config, self.compute, ids=torch.arange(count), seed=own.recipe.train.seed, label=label
        )
        if bar is None:
            return collect(steps)
        return collect(steps, _FRAMES, lambda drawn: bar.update())
