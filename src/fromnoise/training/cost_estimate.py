"""Time and memory of training, measured on a few images before it starts."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fromnoise.config import EMAConfig
from fromnoise.networks import kernels
from fromnoise.training.optim import OptimizerStep, optimizer_from_config
from fromnoise.training.threads import busy_seconds_of, choose_threads, seconds_of
from fromnoise.training.trainable import Trainable
from fromnoise.utils.device import ComputeConfig

if TYPE_CHECKING:
    from fromnoise.training.loop import TrainingLoop

_MIN_PASSES, _MAX_PASSES = 3, 12  # the median counts: the first prepares, and others may be disturbed
_MIN_SECONDS = 1.5  # short passes are repeated for so long, up to _MAX_PASSES
_QUICK_SECONDS = 1.0  # duration of a pass of ``quick_estimate``, at most
_LEAST_ADDED = 0.25  # of the mean duration of an image, where two measurements contradict each other


@dataclass(frozen=True)
class CostEstimate:
    """Cost of training.

    Attributes:
        parameters: number of trainable parameters.
        step_seconds: time of one optimizer step with the whole batch on this machine.
        memory_mb: memory for weights, averages, gradients, optimizer state and activations.
        forward_seconds: time of one image through the network without gradients, as in sampling.
    """

    parameters: int
    step_seconds: float
    memory_mb: float
    forward_seconds: float = 0.0


class _Trial:
    """Passes of a few images through a model, whose weights do not change."""

    def __init__(self, model: Trainable, compute: ComputeConfig, images: int) -> None:
        """Make black images and, for a conditional model, labels."""
        kernels.enable()  # as the trainer does
        self.compute, self.images = compute, min(images, model.recipe.train.batch)
        self._module = model.module
        compute.to_device(model.module).train()
        self.loss = model.training_loss()
        labels = torch.zeros(self.images, dtype=torch.long) if model.dataset_info.class_names is not None else None
        pixels = torch.zeros(self.images, *model.dataset_info.shape, dtype=torch.uint8)
        self.x0, self.cond = model.training_inputs(pixels, labels, torch.arange(self.images), compute)

    def train(self) -> None:
        """Forward and backward pass; the gradients stay."""
        with self.compute.autocast():
            losses = self.loss(self.x0, torch.arange(self.images), self.cond)
        losses.weighted.mean().backward()
        self._synchronize()

    @torch.inference_mode()
    def sample(self) -> None:
        """Forward pass in evaluation mode."""
        self._module.eval()
        with self.compute.autocast():
            self.loss(self.x0, torch.arange(self.images), self.cond, training=False)
        self._synchronize()
        self._module.train()

    def _synchronize(self) -> None:
        if self.compute.device.type == "cuda":
            torch.cuda.synchronize()


def quick_estimate(model: Trainable, compute: ComputeConfig, threads: int | None = None) -> tuple[CostEstimate, int]:
    """Estimate the cost in a few passes of about a second, and choose the number of CPU threads.

    Beside other busy processes the passes take longer: with a few images only, the fixed part of a pass, in which the
    process waits for a core, would be multiplied by the number of images.

    Args:
        model: a new model; its weights do not change.
        compute: device and precision of training.
        threads: the number of threads; None chooses the fastest among torch's present number and its halves.

    Returns:
        The estimate, and the number of threads, which is set.
    """
    config = model.recipe.train
    one = _Trial(model, compute, 1)
    duration_of = busy_seconds_of if compute.device.type == "cpu" else seconds_of
    images = int(_QUICK_SECONDS / max(1e-6, duration_of(one.train)))
    trial = _Trial(model, compute, max(1, min(images, config.batch // config.accumulate)))

    def seconds_with(count: int) -> float:
        torch.set_num_threads(count)
        return seconds_of(trial.train)

    if threads is None:
        limit = torch.get_num_threads()
        threads = choose_threads(seconds_with, limit) if compute.device.type == "cpu" else limit
    torch.set_num_threads(threads)
    return estimate_cost(model, compute, trial.images, min_seconds=_QUICK_SECONDS / 2), threads


def estimate_cost(
    model: Trainable, compute: ComputeConfig, images: int = 4, min_seconds: float = _MIN_SECONDS
) -> CostEstimate:
    """Time forward, backward and optimizer step on a few images, and count the bytes kept for the backward pass.

    Args:
        model: a new model; its weights do not change.
        compute: device and precision of training.
        images: batch size of the measurement, from which the cost of the recipe's batch is extrapolated.
        min_seconds: short passes are repeated for so long.
    """
    config = model.recipe.train
    trial = _Trial(model, compute, images)
    saved_bytes: dict[int, int] = {}  # by address, so that storage saved twice counts once

    def count(t: torch.Tensor) -> torch.Tensor:
        saved_bytes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    passes: list[float] = []
    activation_bytes = 0
    while len(passes) < _MIN_PASSES or (sum(passes) < min_seconds and len(passes) < _MAX_PASSES):
        start = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            trial.train()
        passes.append(time.perf_counter() - start)
        weights = {p.untyped_storage().data_ptr() for p in model.module.parameters()}
        activation_bytes = sum(size for address, size in saved_bytes.items() if address not in weights)
        saved_bytes.clear()
    micro_batch = config.batch // config.accumulate
    seconds = statistics.median(passes)
    micro_seconds = seconds + (micro_batch - trial.images) * _seconds_per_image(model, trial, seconds)
    optimizer_seconds = _time_optimizer_step(model, compute)
    forward_seconds = seconds_of(trial.sample, 3) / trial.images
    # weights, gradient, two moments and averages, and the denoiser that samples with them
    copies = 4 + _averages(model.recipe.ema) + 1
    weight_bytes = 4 * sum(p.numel() for p in model.module.parameters()) * copies
    return CostEstimate(
        parameters=model.parameters,
        step_seconds=micro_seconds * config.accumulate + optimizer_seconds,
        memory_mb=(weight_bytes + activation_bytes * (micro_batch / trial.images)) / 2**20,
        forward_seconds=forward_seconds,
    )


def sharded_estimate(loop: TrainingLoop[Any]) -> CostEstimate:
    """Estimate the cost from passes of black images through the sharded network; all processes call it together.

    A forward pass counts as a third of forward and backward pass. The optimizer's time is not measured.

    Args:
        loop: its weights do not change.
    """
    config, processes = loop.config, loop.accelerator.num_processes
    images = config.batch // config.accumulate // processes
    labels = torch.zeros(images, dtype=torch.long) if loop.model.dataset_info.class_names is not None else None
    pixels = torch.zeros(images, *loop.model.dataset_info.shape, dtype=torch.uint8)
    positions = torch.arange(images)
    x0, cond = loop.model.training_inputs(pixels, labels, positions, loop.compute)
    passes: list[float] = []
    for _ in range(_MIN_PASSES):
        start = time.perf_counter()
        with loop.compute.autocast():
            losses = loop.training_loss(x0, positions, cond)
        losses.weighted.mean().backward()
        if loop.compute.device.type == "cuda":
            torch.cuda.synchronize()
        passes.append(time.perf_counter() - start)
    loop.optimizer_step.zero_grad()
    seconds = statistics.median(passes)
    return CostEstimate(
        parameters=loop.model.parameters,
        step_seconds=seconds * config.accumulate,
        memory_mb=sharded_bytes(loop.model, processes) / 2**20,
        forward_seconds=seconds / 3 / images,
    )


def sharded_bytes(model: Trainable, processes: int) -> float:
    """Bytes of weights, gradients, moments and averages in each process, without activations and gathered units."""
    return 4.0 * model.parameters * (4 + _averages(model.recipe.ema)) / processes


def _averages(ema: EMAConfig) -> int:
    """Number of averages, with those of snapshots and the best epoch."""
    stored = len(ema.snapshot_widths) if ema.snapshots else 0
    return len(ema.decays) + len(ema.widths) + ema.best_epoch + stored


def _seconds_per_image(model: Trainable, trial: _Trial, seconds: float) -> float:
    """What one more image adds to a pass, from the passes of ``trial``, which took ``seconds``, and of half of it.

    A part of a pass does not depend on the number of images: reading the weights and adding to their gradients.
    """
    half = trial.images // 2
    mean = seconds / trial.images
    if half == 0 or trial.images >= model.recipe.train.batch // model.recipe.train.accumulate:
        return mean
    added = (seconds - seconds_of(_Trial(model, trial.compute, half).train)) / (trial.images - half)
    return min(mean, max(added, _LEAST_ADDED * mean))


def _time_optimizer_step(model: Trainable, compute: ComputeConfig) -> float:
    """Seconds of an optimizer step from the present gradients; at learning rate 0, so that the weights stay."""
    config, fastest = model.recipe.train, float("inf")
    optimizer_step = OptimizerStep(optimizer_from_config(config), model.module, config.lr, compute.dtype)
    for _ in range(_MIN_PASSES):  # the first step allocates the moments
        start = time.perf_counter()
        optimizer_step.clip(config.clip)
        optimizer_step.step(0.0)
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    optimizer_step.zero_grad()
    return fastest
