"""The images that a run writes: its data, the forward process, previews during training, final samples."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from fromnoise.config import SamplingConfig
from fromnoise.data import Data, shuffled_indices, to_uint8
from fromnoise.model import AutoencoderModel, Model
from fromnoise.pipeline import Samples, collect, forward_process, sample_steps
from fromnoise.reporting import image_io, plots
from fromnoise.run_dir import RunDir
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.measurement_plan import PREVIEW_COUNT, preview_config
from fromnoise.training.stopping import Stopping, unless_stopped
from fromnoise.utils.device import ComputeConfig

_GIF_FRAMES = 100


class Previews(ABC):
    """Writes images into a run directory."""

    def __init__(self, run_dir: RunDir, compute: ComputeConfig) -> None:
        """Prepare; nothing is written yet.

        Args:
            run_dir: where to write.
            compute: device and precision of sampling.
        """
        self.run_dir, self.compute = run_dir, compute

    def save_data(self, model: Any, data: Data) -> Tensor:
        """Write the first training batch (samples/first_batch.png); returns it, uint8 (B, C, H, W)."""
        config = model.recipe.train
        count = min(64, config.batch, len(data.train))
        first = data.train.get(shuffled_indices(len(data.train), config.seed, range(count)))
        image_io.save(image_io.grid(first), self.run_dir.samples / "first_batch.png")
        return first

    @abstractmethod
    def save_preview(self, loop: TrainingLoop[Any]) -> Image.Image:
        """Write samples/step_N.png.

        Returns:
            The image that was written.

        Raises:
            Stopped: the run is asked to stop; nothing is written.
        """

    @abstractmethod
    def save_final_samples(self, loop: TrainingLoop[Any], stopping: Stopping = lambda: False) -> list[str]:
        """Write the images of a finished run.

        Args:
            loop: its plan has their number.
            stopping: asked before each sampling step.

        Returns:
            The names of the files.

        Raises:
            Stopped: the run is asked to stop; nothing is written.
        """

    def save_loss_plot(self) -> None:
        """Write loss.png: the loss over the steps and over t."""
        reports = self.run_dir.read_reports()
        if reports:
            plots.loss_plot(reports, self.run_dir.path / "loss.png")

    def _save_preview(self, loop: TrainingLoop[Any], panels: list[tuple[str, Image.Image]]) -> Image.Image:
        preview = image_io.side_by_side(panels)
        image_io.save(preview, self.run_dir.samples / f"step_{loop.progress.step:08d}.png")
        return preview


def previews_of(model: Model | AutoencoderModel, run_dir: RunDir, compute: ComputeConfig) -> Previews:
    """What writes the images of a model's run."""
    kind = SamplePreviews if isinstance(model, Model) else ReconstructionPreviews
    return kind(run_dir, compute)


class SamplePreviews(Previews):
    """The forward process and samples of a diffusion model."""

    def save_data(self, model: Model, data: Data) -> Tensor:
        """Write the forward process as well (forward.png)."""
        first = super().save_data(model, data)
        noisy = forward_process(model.schedule, first[:6], model.recipe.train.seed, latent_space=model.latent_space)
        image_io.save(image_io.forward_strip(*noisy), self.run_dir.path / "forward.png")
        return first

    def save_preview(self, loop: TrainingLoop[Model]) -> Image.Image:
        """Write samples/step_N.png: samples with raw and with EMA weights, by few DDIM steps from the same noise.

        Returns:
            The image that was written.

        Raises:
            Stopped: the run is asked to stop; nothing is written.
        """
        config = preview_config(loop.model.recipe)
        panels = [
            (name, image_io.grid(self._sample(build(), config, PREVIEW_COUNT, loop.stop_requested).images))
            for name, build in loop.versions()
        ]
        return self._save_preview(loop, panels)

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
        total = -(-count // 64) * (len(loop.model.levels(config)) - 1)
        with tqdm(total=total, desc="sampling", unit="step", file=sys.stderr) as bar:
            samples = self._sample(loop.ema_model(), config, count, stopping, bar)
        path = self.run_dir.path
        class_names = loop.model.dataset_info.class_names
        image_io.save_images(samples.images, path / "samples.png", samples.labels, names=class_names)
        image_io.save_gif([frame[:25] for frame in samples.frames], path / "reverse.gif")
        image_io.save(
            image_io.reverse_strip([frame[:6] for frame in samples.frames], samples.times), path / "reverse.png"
        )
        return ["samples.png", "reverse.gif", "reverse.png"]

    def _sample(
        self, model: Model, config: SamplingConfig, count: int, stopping: Stopping, bar: tqdm | None = None
    ) -> Samples:
        model.denoiser.eval()
        label = "all" if model.dataset_info.class_names is not None else None
        steps = sample_steps(
            model, config, self.compute, ids=torch.arange(count), seed=model.recipe.train.seed, label=label
        )
        steps = unless_stopped(steps, stopping)
        if bar is None:
            return collect(steps, finite=False)
        return collect(steps, _GIF_FRAMES, lambda step: bar.update(), finite=False)


class ReconstructionPreviews(Previews):
    """Held-out images and their reconstructions by an autoencoder."""

    def save_preview(self, loop: TrainingLoop[AutoencoderModel]) -> Image.Image:
        """Write samples/step_N.png: held-out images, and their reconstructions with raw and with EMA weights."""
        images = self._held_out(loop, PREVIEW_COUNT)
        panels = [("held-out images", image_io.grid(images))]
        for name, build in loop.versions():
            panels.append((name, image_io.grid(self._reconstruct(build(), images, loop.stop_requested))))
        return self._save_preview(loop, panels)

    def save_final_samples(self, loop: TrainingLoop[AutoencoderModel], stopping: Stopping = lambda: False) -> list[str]:
        """Write held-out images and their reconstructions (reconstructions.png)."""
        images = self._held_out(loop, loop.measurements.plan.final_samples)
        if not len(images):
            return []
        out = self._reconstruct(loop.ema_model(), images, stopping)
        panels = [("held-out images", image_io.grid(images)), ("reconstructions", image_io.grid(out))]
        image_io.save(image_io.side_by_side(panels), self.run_dir.path / "reconstructions.png")
        return ["reconstructions.png"]

    def _held_out(self, loop: TrainingLoop[AutoencoderModel], count: int) -> Tensor:
        images = loop.data.held_out
        return images.get(loop.held_out_loss.indices[: min(count, len(images))])

    def _reconstruct(self, model: AutoencoderModel, pixels: Tensor, stopping: Stopping) -> Tensor:
        model.module.eval()
        parts = unless_stopped(pixels.split(64), stopping)
        return torch.cat([to_uint8(model.reconstruct(part, self.compute)).cpu() for part in parts])
