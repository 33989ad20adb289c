"""The training loop, a generator of step reports: the caller logs, saves, previews and stops."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic

import torch
from accelerate import Accelerator
from torch import Tensor

from fromnoise.data import Batch, BatchStream, Data
from fromnoise.networks import kernels
from fromnoise.optim.parts import whole
from fromnoise.training import cuda_graphs, fit_pseudo_labels
from fromnoise.training.backward import Backward
from fromnoise.training.distributed import sync_clock_and_stop
from fromnoise.training.ema import EMA
from fromnoise.training.held_out import HeldOutLoss
from fromnoise.training.layout import layout_of
from fromnoise.training.measurements import Measurements
from fromnoise.training.optim import OptimizerStep, learning_rate, optimizer_from_config
from fromnoise.training.progress import StepReport, TrainingProgress, timing
from fromnoise.training.rollback import State, drop_step
from fromnoise.training.stopping import Stopped
from fromnoise.training.threads import ThreadTuner
from fromnoise.training.trainable import M
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


class TrainingLoop(Generic[M]):
    """Trains a model on a stream of images.

    Each step is a function of the training state and of the position in the stream, so a resumed run is bit for bit
    the uninterrupted one.

    Attributes:
        model: its module is trained in place.
        data: training and held-out images.
        compute: device and precision.
        accelerator: the processes of the run.
        config: the section ``train`` of the recipe.
        budget: how long to train.
        measurements: which held-out losses, previews and samples the budget allows, and the time that they take.
        tuner: sets the number of CPU threads; None leaves it.
        step_seconds: duration of all training steps of this process.
        progress: counters that are saved in the training state.
        ema: averages of the weights, or the weights of the best epoch.
        layout: how the weights lie on the processes.
        backward: computes the gradient of a batch.
        before_rollback: called before a saved state is read again.
        stopping: whether the loop ends before the next step.
    """

    def __init__(
        self,
        model: M,
        data: Data,
        compute: ComputeConfig,
        accelerator: Accelerator,
        load_state: Callable[[int], State | None] = lambda skip: None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Prepare training; on CPUs this enables the C kernels.

        Args:
            model: a model with initial weights.
            data: training and held-out images.
            compute: device and precision.
            accelerator: the processes of the run.
            load_state: returns a saved state for a rollback after repeated non-finite steps, None if there is none;
                its argument is the number of newer states to skip because they gave non-finite steps as well.
            log: receives messages.

        Raises:
            UserError: the batch cannot be divided among processes and accumulation steps, or the weights among
                processes.
        """
        config = model.recipe.train
        self.model, self.data, self.compute, self.accelerator = model, data, compute, accelerator
        self.config, self._load_state, self._log = config, load_state, log
        parts = accelerator.num_processes * config.accumulate
        if config.batch % parts:
            raise UserError(
                f"train.batch {config.batch} cannot be divided into {parts} equal parts (processes x accumulate): "
                f"use a multiple of {parts}"
            )
        if model.recipe.ema.weak_at and getattr(model.module, "weak_step", None) is None:
            raise UserError(
                "ema.weak_at keeps a weaker version of a denoiser: leave it out for an autoencoder; a denoiser made in "
                "Python needs Denoiser(..., weak=True)"
            )
        self.measurements = Measurements(model.recipe)
        self.budget = self.measurements.budget(len(data.train))
        self.tuner: ThreadTuner | None = None
        self.step_seconds = 0.0
        self.progress = TrainingProgress()
        self.stopping = self._stop_requested = False
        self.before_rollback: Callable[[], object] = lambda: None
        kernels.enable()
        loss = model.training_loss()
        self.time_sampler = loss.time_sampler
        self.layout = layout_of(config, accelerator, compute)
        self.training_loss = self.layout.distribute(loss, model.module)
        if compute.device.type == "cuda" and accelerator.num_processes == 1 and not self.layout.sharded:
            cuda_graphs.enable(getattr(model.module, "network", model.module))
        self.ema = EMA(model.recipe.ema, model.module, Fraction(len(data.train), config.batch))
        self.optimizer_step = OptimizerStep(optimizer_from_config(config), model.module, config.lr, compute.dtype)
        self.backward = Backward(
            *(model, self.training_loss, self.time_sampler, self.layout, accelerator, compute),
            *(self.optimizer_step.zero_grad, log),
        )
        self._has_dropout = any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.module.modules())
        self.held_out_loss = HeldOutLoss(model, data.held_out, compute)
        self.stream = BatchStream(data.train, config.seed, model.recipe.data.flip, workers=model.recipe.data.workers)

    def fit_pseudo_labels(self) -> None:
        """Fit the pseudo-labels to the training images, if the model uses them and did not start from another one."""
        started = getattr(self.model, "base", None) is not None
        if getattr(self.model.module, "pseudo_labels", None) is not None and not started:
            clusters = fit_pseudo_labels.fit_synchronized(
                self.model.module, self.stream, self.config.seed, self.accelerator
            )
            self._log(f"{clusters} clusters of the training images as pseudo-labels (data.pseudo_labels)")

    # ---- the loop

    def run(self) -> Generator[StepReport, None, None]:
        """Train until the budget is used or ``stop`` was called; yields a report after each step."""
        start_time, seconds_before = time.monotonic(), self.progress.seconds
        first_step = self.progress.step
        processes = self.accelerator.num_processes
        batches = self.stream.iterate(
            first_step * self.config.batch, self.config.batch // processes, self.accelerator.process_index, processes
        )
        try:
            while self.budget_used < 1 and not self.stopping:
                if self._stop_requested and processes == 1:  # several processes agree after a step
                    self.stopping = True
                    return
                used_before, step_start = self.budget_used, time.monotonic()
                loss, grad_norm, lr = self._train_step(next(batches))
                step_seconds = time.monotonic() - step_start
                self.step_seconds += step_seconds
                if self.tuner is not None:
                    self.tuner.observe(step_seconds)
                seconds = seconds_before + time.monotonic() - start_time
                self.progress.seconds, self.stopping = sync_clock_and_stop(
                    self.accelerator, self.compute.device, seconds, self._stop_requested
                )
                yield self._report(loss, grad_norm, lr, used_before, start_time, first_step)
        finally:
            batches.close()

    @property
    def budget_used(self) -> float:
        """Fraction of the budget used, in [0, 1]."""
        return self.budget.used(self.progress.step, self.progress.seconds)

    def stop(self) -> None:
        """End the loop after the current step, in all processes; measurements are given up."""
        self._stop_requested = True

    def reserve(self, seconds: float) -> None:
        """End a new run with a budget in minutes earlier, by the duration of what follows the last step."""
        self.measurements.reserve_more(sync_clock_and_stop(self.accelerator, self.compute.device, seconds, False)[0])
        self.budget = self.measurements.budget(len(self.data.train))

    def include(self, seconds: float) -> None:
        """Count seconds of other work, by the clock of the first process, for a budget in minutes."""
        seconds += self.progress.seconds
        self.progress.seconds = sync_clock_and_stop(self.accelerator, self.compute.device, seconds, False)[0]

    def stop_requested(self) -> bool:
        """Whether ``stop`` was called in this process."""
        return self._stop_requested

    def _train_step(self, batch: Batch) -> tuple[float, float, float]:
        """Take one optimizer step; returns loss over all processes, gradient norm and learning rate."""
        self.layout.release()
        progress = self.progress
        lr = learning_rate(self.config, progress.step, self.budget_used) * progress.lr_scale
        if self._has_dropout:  # nothing else uses torch's global generator
            torch.manual_seed(_mix_seeds(self.config.seed, progress.step, self.accelerator.process_index))
        if not self.model.module.training:  # train() visits every module, which is slower than this check
            self.model.module.train()
        loss = self.backward(batch, progress.step)
        grad_norm = self.optimizer_step.clip(self.config.clip)
        progress.step += 1
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.optimizer_step.step(lr)
            self.ema.update(progress.step, loss)
            self._keep_weak()
            progress.loss_sum, progress.loss_count = progress.loss_sum + loss, progress.loss_count + 1
            progress.dropped_in_a_row = progress.rollbacks_in_a_row = 0
        else:
            drop_step(progress, self._read_saved, self._load_tensors, self._log)
        self.optimizer_step.zero_grad()
        return loss, grad_norm, lr

    def _keep_weak(self) -> None:
        """Keep the weaker model of autoguidance, once, after ``ema.weak_at`` of the budget."""
        module = self.model.module
        if getattr(module, "weak_step", None) is None or int(module.weak_step):
            return
        if self.budget_used >= self.model.recipe.ema.weak_at:
            module.keep_weak({name: whole(t) for name, t in self.ema.parameters().items()}, self.progress.step)

    # ---- reports

    def _report(
        self, loss: float, grad_norm: float, lr: float, used_before: float, start_time: float, first_step: int
    ) -> StepReport:
        """Report a step, with held-out losses where the plan has them."""
        progress, config = self.progress, self.config
        measure = self.measurements.held_out_due(progress.step, used_before, self.budget_used, self.layout.agree)
        logged = measure or progress.step % config.report_every == 0 or self.budget_used >= 1
        mean_loss = progress.loss_sum / progress.loss_count if progress.loss_count else loss
        held_out_losses = self.evaluate() if measure else {}
        if logged:
            progress.loss_sum, progress.loss_count = 0.0, 0
        elapsed = time.monotonic() - start_time
        used_here = self.budget_used - self.budget.used(first_step, progress.seconds - elapsed)
        images_per_second = (progress.step - first_step) * config.batch / max(1e-9, elapsed)
        remaining_seconds = elapsed / max(1e-9, used_here) * (1 - self.budget_used)
        return StepReport(
            step=progress.step,
            images=progress.step * config.batch,
            loss=mean_loss,
            lr=lr,
            budget_used=self.budget_used,
            dropped_steps=progress.dropped_steps,
            rollbacks=progress.rollbacks,
            grad_norm=grad_norm,
            logged=logged,
            timing=timing(progress.seconds, images_per_second, remaining_seconds, self.compute.device),
            **held_out_losses,
        )

    def evaluate(self) -> dict[str, Any]:
        """Measure the loss on held-out images, at times and with noise that are the same at every call.

        Returns:
            As of ``HeldOutLoss.report``; nothing if the run is asked to stop, and of sharded weights in all processes
            but the first.
        """
        with self.measurements.overhead.spend("held-out evaluation"), contextlib.suppress(Stopped):
            self.gather(raw=True)
            if self.accelerator.is_main_process or not self.layout.sharded:
                modules = (build().module for _, build in self.versions())
                return self.held_out_loss.report(modules, self.stop_requested)
        return {}

    # ---- whole weights

    def gather(self, *, raw: bool = False) -> None:
        """Collect sharded weights in the first process, where they stay until the next step.

        All processes call it together, before one of the methods below is called in the first.

        Args:
            raw: collect the raw weights too, not only those for sampling.
        """
        self.layout.gather(self.model.module, self.ema.parameters(), raw=raw)

    def versions(self) -> list[tuple[str, Callable[[], M]]]:
        """Names of the raw and, if there are any, the averaged weights, each with a function that returns the model."""

        def raw() -> M:
            return self.model.with_module(self.layout.raw(self.model.module))

        found: list[tuple[str, Callable[[], M]]] = [("raw weights", raw)]
        if self.ema.active:
            found.append(("best epoch" if self.ema.config.best_epoch else "EMA weights", self.ema_model))
        return found

    def ema_model(self) -> M:
        """The model with the weights for sampling: EMA, best epoch, or raw weights if the recipe has neither.

        Its module is in evaluation mode. If the weights are not sharded it is the same object at each call, with the
        weights of the last call.
        """
        return self.model.with_module(self.layout.averaged(self.model.module, self.ema.parameters()))

    def ema_state_dict(self) -> dict[str, Tensor]:
        """Weights and buffers of ``ema_model``, float32: the content of model.safetensors."""
        return self.layout.averaged_state(self.model.module, self.ema.parameters())

    # ---- state

    def state(self) -> State:
        """Tensors, sharded ones as DTensors, and header from which ``resume`` continues bit for bit."""
        tensors = {f"model.{k}": v for k, v in self.model.module.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in self.optimizer_step.state_dict().items()}
        tensors |= {f"time_sampler.{k}": v for k, v in self.time_sampler.state_dict().items()}
        return tensors, {
            "kind": "state",
            "progress": dict(self.progress.__dict__),
            "measurements": self.measurements.to_json(),
        }

    def read_state(self, path: Path) -> State:
        """Read a state for ``resume``; of sharded tensors the parts of this process.

        Raises:
            DamagedFile: it is damaged.
            UserError: it cannot be read.
        """
        return self.layout.read(path, self.model.module)

    def _read_saved(self, skip: int) -> State | None:
        self.before_rollback()
        return self._load_state(skip)

    def resume(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Continue from a state."""
        self._load_tensors(tensors)
        self.progress = TrainingProgress(**header["progress"])
        self.measurements.restore(header.get("measurements"))
        self.budget = self.measurements.budget(len(self.data.train))

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for name, t in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = t
        self.layout.load(self.model.module, parts["model"])
        self.ema.load_state_dict(parts.get("ema", {}))
        if "time_sampler" in parts:
            self.time_sampler.load_state_dict(parts["time_sampler"])
        self.optimizer_step.load_state_dict(parts.get("optimizer", {}))


def _mix_seeds(*numbers: int) -> int:
    """Hash several integers to one 63-bit seed (a linear congruential step for each)."""
    out = 0
    for n in numbers:
        out = (out * 6364136223846793005 + n + 1442695040888963407) & (2**63 - 1)
    return out
