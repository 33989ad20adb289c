"""The gradient of a batch, in as many micro-batches as the memory of the GPU requires."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from fromnoise.data import Batch
from fromnoise.diffusion.losses import LossTerms, self_condition_mask
from fromnoise.training.distributed import gather_losses
from fromnoise.training.layout import Layout
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


class Backward:
    """Adds up the gradient of the mean loss of a batch over micro-batches and processes.

    Attributes:
        micro_batches: their number; it doubles when memory runs out.
    """

    def __init__(
        self,
        model: Any,
        training_loss: nn.Module,
        time_sampler: Any,
        layout: Layout,
        accelerator: Accelerator,
        compute: ComputeConfig,
        zero_grad: Callable[[], object],
        log: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            model: makes the inputs of the loss.
            training_loss: as the layout has distributed it.
            time_sampler: learns from the losses of all processes.
            layout: how the weights lie on the processes.
            accelerator: the processes.
            compute: device and precision.
            zero_grad: drops the gradient of a batch that did not fit.
            log: receives a message when the number changes.
        """
        self._model, self._training_loss, self._time_sampler = model, training_loss, time_sampler
        self._layout, self._accelerator, self._compute = layout, accelerator, compute
        self._zero_grad, self._log = zero_grad, log
        self.micro_batches = model.recipe.train.accumulate

    def __call__(self, batch: Batch, step: int) -> float:
        """Accumulate the gradient; returns the mean loss over all processes.

        Args:
            batch: of this process.
            step: number of steps before this one.

        Raises:
            UserError: a single image does not fit, or there are several processes, which would have to agree.
        """
        while True:
            try:
                return self._accumulate(batch, step)
            except torch.OutOfMemoryError:
                size = len(batch.positions) // self.micro_batches
                if size % 2 or self._accelerator.num_processes > 1:
                    remedies = "use a smaller network, or set network.recompute to true"
                    if self._accelerator.num_processes > 1 and not self._layout.sharded:
                        remedies += " or train.sharding to full"
                    raise UserError(
                        f"a micro-batch of {size} images does not fit in memory: raise train.accumulate "
                        f"(now {self.micro_batches}), {remedies}"
                    ) from None
            self._zero_grad()
            torch.cuda.empty_cache()
            self.micro_batches *= 2
            self._log(f"a micro-batch of {size} images does not fit in memory: continuing with {size // 2}")

    def _accumulate(self, batch: Batch, step: int) -> float:
        terms: list[LossTerms] = []
        self_condition = self_condition_mask(self._model.recipe.train.seed, step)
        size = len(batch.positions) // self.micro_batches
        for i in range(self.micro_batches):
            part = slice(i * size, (i + 1) * size)
            labels = batch.labels[part] if batch.labels is not None else None
            x0, cond = self._model.training_inputs(batch.pixels[part], labels, batch.positions[part], self._compute)
            last = i == self.micro_batches - 1
            with contextlib.nullcontext() if last else self._layout.accumulating(self._training_loss):
                with self._compute.autocast():
                    losses: LossTerms = self._training_loss(
                        x0, batch.positions[part], cond, self_condition=self_condition
                    )
                (losses.weighted.mean() / self.micro_batches).backward()
            terms.append(losses)
        return gather_losses(self._accelerator, self._compute.device, terms, self._time_sampler)
