"""The images that a run writes: its data, the forward process, previews during training, final samples."""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from PIL import Image
from tqdm import tqdm

from fromnoise.config import SamplingConfig
from fromnoise.data import Data, shuffled_indices
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.model import Model
from fromnoise.pipeline import Samples, collect, forward_process, sample_steps
from fromnoise.reporting import image_io, plots
from fromnoise.run_dir import RunDir
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.measurement_plan import PREVIEW_COUNT, preview_config
from fromnoise.training.stopping import Stopping, unless_stopped
from fromnoise.utils.device import ComputeConfig

_GIF_FRAMES = 100


class Previews:
    """Writes images into a run directory."""

    def __init__(self, run_dir: RunDir, compute: ComputeConfig) -> None:
        """Prepare; nothing is written yet.

        Args:
            run_dir: where to write.
            compute: device and precision of sampling.
        """
        self.run_dir, self.compute = run_dir, compute

    def save_data(self, model: Model, data: Data) -> None:
        """Write the first training batch (samples/first_batch.png) and the forward process (forward.png)."""
        config = model.recipe.train
        count = min(64, config.batch, len(data.train))
        first = data.train.get(shuffled_indices(len(data.train), config.seed, range(count)))
        image_io.save(image_io.grid(first), self.run_dir.samples / "first_batch.png")
        image_io.save(
            image_io.forward_strip(*forward_process(model.schedule, first[:6], config.seed)),
            self.run_dir.path / "forward.png",
        )

    def save_preview(self, loop: TrainingLoop[Model]) -> Image.Image:
        """Write samples/step_N.png: samples with raw and with EMA weights, by few DDIM steps from the same noise.

        Returns:
            The image that was written.

        Raises:
            Stopped: the run is asked to stop; nothing is written.
        """
        config = preview_config(loop.model)
        denoisers = [("raw weights", loop.model.denoiser)]
        if loop.ema.active:
            name = "best epoch" if loop.model.recipe.ema.best_epoch else "EMA weights"
            denoisers.append((name, loop.ema_model().denoiser))
        panels = [
            (name, image_io.grid(self._sample(loop, denoiser, config, PREVIEW_COUNT, loop.stop_requested).images))
            for name, denoiser in denoisers
        ]
        preview = image_io.side_by_side(panels)
        image_io.save(preview, self.run_dir.samples / f"step_{loop.progress.step:08d}.png")
        return preview

    def save_loss_plot(self) -> None:
        """Write loss.png: the loss over the steps and over t."""
        reports = self.run_dir.read_reports()
        if reports:
            plots.loss_plot(reports, self.run_dir.path / "loss.png")

    def save_final_samples(self, loop: TrainingLoop[Model], stopping: Stopping = lambda: False) -> list[str]:
        """Write samples by the recipe's sampler, and the reverse process.

        Args:
            loop: its plan has the number of samples.
            stopping: asked before each sampling step.

        Returns:
            The names of the files.

        Raises:
            Stopped: the run is asked to stop; nothing is written.
        """
        config, count = loop.model.recipe.sample, loop.measurements.plan.final_samples
        if not count:
            return []
        denoiser = loop.ema_model().denoiser
        total = -(-count // 64) * (len(loop.model.levels(config)) - 1)
        with tqdm(total=total, desc="sampling", unit="step", file=sys.stderr) as bar:
            samples = self._sample(loop, denoiser, config, count, stopping, bar)
        path = self.run_dir.path
        class_names = loop.model.dataset_info.class_names
        image_io.save_images(samples.images, path / "samples.png", samples.labels, names=class_names)
        image_io.save_gif([frame[:25] for frame in samples.frames], path / "reverse.gif")
        image_io.save(
            image_io.reverse_strip([frame[:6] for frame in samples.frames], samples.times), path / "reverse.png"
        )
        return ["samples.png", "reverse.gif", "reverse.png"]

    def _sample(
        self,
        loop: TrainingLoop[Model],
        denoiser: Denoiser,
        config: SamplingConfig,
        count: int,
        stopping: Stopping,
        bar: tqdm | None = None,
    ) -> Samples:
        model = replace(loop.model, denoiser=denoiser.eval())
        label = "all" if model.dataset_info.class_names is not None else None
        steps = sample_steps(
            model, config, self.compute, ids=torch.arange(count), seed=model.recipe.train.seed, label=label
        )
        steps = unless_stopped(steps, stopping)
        if bar is None:
            return collect(steps, finite=False)
        return collect(steps, _GIF_FRAMES, lambda step: bar.update(), finite=False)
