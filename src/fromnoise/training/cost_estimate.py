"""Time and memory of training, measured on a few images before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from fromnoise.networks import kernels
from fromnoise.training.optim import OptimizerStep, optimizer_from_config
from fromnoise.training.trainable import Trainable
from fromnoise.utils.device import ComputeConfig

_MIN_PASSES, _MAX_PASSES = 3, 12  # the fastest pass counts, because others may have been disturbed
_MIN_SECONDS = 1.5  # short passes are repeated for so long, up to _MAX_PASSES


@dataclass(frozen=True)
class CostEstimate:
    """Cost of training.

    Attributes:
        parameters: number of trainable parameters.
        step_seconds: time of one optimizer step with the whole batch on this machine.
        memory_mb: memory for weights, averages, gradients, optimizer state and activations.
    """

    parameters: int
    step_seconds: float
    memory_mb: float


def estimate_cost(model: Trainable, compute: ComputeConfig, images: int = 4) -> CostEstimate:
    """Time forward, backward and optimizer step on a few images, and count the bytes kept for the backward pass.

    Args:
        model: a new model; its weights do not change.
        compute: device and precision of training.
        images: batch size of the measurement, from which the cost of the recipe's batch is extrapolated.
    """
    kernels.enable()  # as the trainer does
    config = model.recipe.train
    images = min(images, config.batch)
    compute.to_device(model.module).train()
    loss = model.training_loss()
    labels = torch.zeros(images, dtype=torch.long) if model.dataset_info.class_names is not None else None
    pixels = torch.zeros(images, *model.dataset_info.shape, dtype=torch.uint8)
    x0, cond = model.training_inputs(pixels, labels, compute)
    saved_bytes: dict[int, int] = {}  # by address, so that storage saved twice counts once

    def count(t: torch.Tensor) -> torch.Tensor:
        saved_bytes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    fastest, elapsed, passes, activation_bytes = float("inf"), 0.0, 0, 0
    while passes < _MIN_PASSES or (elapsed < _MIN_SECONDS and passes < _MAX_PASSES):
        start = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t), compute.autocast():
            losses = loss(x0, torch.arange(images), cond)
        losses.weighted.mean().backward()
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        fastest, elapsed, passes = min(fastest, seconds), elapsed + seconds, passes + 1
        weights = {p.untyped_storage().data_ptr() for p in model.module.parameters()}
        activation_bytes = sum(size for address, size in saved_bytes.items() if address not in weights)
        saved_bytes.clear()
    optimizer_seconds = _time_optimizer_step(model, compute)
    ema = model.recipe.ema
    # weights, gradient and two moments; averages or the best epoch, and the denoiser that samples with them
    copies = 4 + 1 + len(ema.decays) + len(ema.widths) + ema.best_epoch
    weight_bytes = 4 * sum(p.numel() for p in model.module.parameters()) * copies
    micro_batch = config.batch / config.accumulate
    return CostEstimate(
        parameters=model.parameters,
        step_seconds=fastest * config.batch / images + optimizer_seconds,
        memory_mb=(weight_bytes + activation_bytes * (micro_batch / images)) / 2**20,
    )


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
