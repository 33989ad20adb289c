"""What a run will take, measured on a few images before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from fromnoise.model import Model
from fromnoise.networks import kernels
from fromnoise.training.optim import OptimizerStep, optimizer_from_config
from fromnoise.utils.device import ComputeConfig

_PASSES, _SECONDS = 3, 1.5  # the fastest counts, of more passes where they are short: a moment may be a slow one


@dataclass(frozen=True)
class CostEstimate:
    """Cost of a run.

    Attributes:
        parameters: trainable ones.
        step_seconds: of one optimiser step of the whole batch on this machine.
        memory_mb: weights, averages, gradients, optimiser and what the backward pass keeps.
    """

    parameters: int
    step_seconds: float
    memory_mb: float


def estimate(model: Model, compute: ComputeConfig, images: int = 4) -> CostEstimate:
    """Time a forward and backward pass of a few images and a step of the optimiser, and count the bytes kept.

    Args:
        model: freshly built; its weights stay as they are.
        compute: where it will train.
        images: taken at a time; the result is scaled to the recipe's batch.
    """
    kernels.enable()  # as the trainer does
    recipe = model.recipe.train
    images = min(images, recipe.batch)
    compute.to_device(model.denoiser).train()
    objective = model.diffusion_loss()
    x0 = torch.zeros(images, *model.dataset_info.shape, device=compute.device).contiguous(
        memory_format=compute.memory_format
    )
    told = model.dataset_info.class_names is not None or model.denoiser.pseudo_labels is not None
    cond = torch.zeros(images, dtype=torch.long, device=compute.device) if told else None
    kept: dict[int, int] = {}

    def count(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    seconds, spent, passes = float("inf"), 0.0, 0
    while passes < _PASSES or (spent < _SECONDS and passes < 4 * _PASSES):
        begun = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t), compute.autocast():
            losses = objective(x0, torch.arange(images), cond)
        losses.weighted.mean().backward()
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - begun
        seconds, spent, passes = min(seconds, took), spent + took, passes + 1
        weights = {p.untyped_storage().data_ptr() for p in model.denoiser.parameters()}
        bytes_kept = sum(size for place, size in kept.items() if place not in weights)
        kept.clear()
    moved = _moved(model, compute)
    ema = model.recipe.ema
    # weights, gradient, two moments; averages or the best epoch, and their model
    copies = 4 + 1 + len(ema.decays) + len(ema.widths) + ema.best_epoch
    held = 4 * sum(p.numel() for p in model.denoiser.parameters()) * copies
    share = recipe.batch / recipe.accumulate / images
    return CostEstimate(model.parameters, seconds * recipe.batch / images + moved, (held + bytes_kept * share) / 2**20)


def _moved(model: Model, compute: ComputeConfig) -> float:
    """Seconds of a step of the optimiser, by the gradients that lie there; at learning rate 0 the weights stay."""
    config, least = model.recipe.train, float("inf")
    optimizer_step = OptimizerStep(optimizer_from_config(config), model.denoiser, config.lr, compute.dtype)
    for _ in range(_PASSES):  # the first makes the moments
        begun = time.perf_counter()
        optimizer_step.clip(config.clip)
        optimizer_step.step(0.0)
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        least = min(least, time.perf_counter() - begun)
    optimizer_step.zero_grad()
    return least
