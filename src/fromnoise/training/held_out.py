"""The loss on held-out images, comparable between steps and runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.data import Images, shuffled_indices
from fromnoise.diffusion.losses import LossTerms, loss_by_time
from fromnoise.training.stopping import Stopping, unless_stopped
from fromnoise.training.trainable import Trainable
from fromnoise.utils.device import ComputeConfig


class HeldOutLoss:
    """The training loss on a fixed subset of the held-out images, each at a fixed time and with fixed noise."""

    def __init__(self, model: Trainable, images: Images, compute: ComputeConfig) -> None:
        """Choose the images.

        Args:
            model: its recipe sets the loss, the number of images and the seed.
            images: held-out images.
            compute: device and precision.
        """
        config = model.recipe.train
        self._model, self._images, self._compute = model, images, compute
        count = min(config.held_out, len(images))
        # shuffled, because data sets are often sorted by class
        self.indices = torch.as_tensor(shuffled_indices(len(images), config.seed, range(count)))
        self._rows = self.indices
        self._batch = max(1, config.batch // config.accumulate)

    def replace_images(self, images: Images) -> None:
        """Measure on other images: one for each of ``indices``, in their order."""
        self._images, self._rows = images, torch.arange(len(self.indices))

    def _labels(self, rows: Tensor) -> Tensor | None:
        return self._images.labels[rows] if self._images.labels is not None else None

    @torch.inference_mode()
    def report(self, modules: Iterable[nn.Module], stopping: Stopping = lambda: False) -> dict[str, Any]:
        """Measure the raw and the averaged weights.

        Args:
            modules: with the raw weights and, if the recipe has averages, with those; in evaluation mode.
            stopping: asked before each batch.

        Returns:
            ``held_out_loss`` and ``loss_by_t`` (ten bins of t) with the EMA weights, ``held_out_loss_raw`` with the
            raw weights.

        Raises:
            Stopped: the run is asked to stop.
        """
        losses = [self(module, stopping) for module in modules]
        bins = loss_by_time(*losses[-1]).tolist()
        return {
            "held_out_loss": float(losses[-1][0].mean()),
            "held_out_loss_raw": float(losses[0][0].mean()),
            "loss_by_t": [round(v, 8) if math.isfinite(v) else None for v in bins],
        }

    def __call__(self, module: nn.Module, stopping: Stopping = lambda: False) -> tuple[Tensor, Tensor]:
        """Measure the model with the weights of ``module``.

        Returns:
            Loss and time of each image, float64 (N,) each.

        Raises:
            Stopped: the run is asked to stop.
        """
        loss = self._model.with_module(module).training_loss()
        losses, times = [], []
        for positions in unless_stopped(torch.arange(len(self.indices)).split(self._batch), stopping):
            rows = self._rows[positions]
            x0, cond = self._model.training_inputs(self._images.get(rows), self._labels(rows), positions, self._compute)
            with self._compute.autocast():
                terms: LossTerms = loss(x0, positions, cond, training=False)
            losses.append(terms.unweighted.cpu().double())
            times.append(terms.t)
        return torch.cat(losses), torch.cat(times)
