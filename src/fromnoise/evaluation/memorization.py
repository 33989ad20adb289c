"""Memorization: code lengths of training images and of held-out images under a model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.data import Data
from fromnoise.diffusion.likelihood.ode import RungeKutta
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.likelihood import LikelihoodEvaluator, random_subset
from fromnoise.evaluation.sources import ImageSource, first_with_data
from fromnoise.model import Model
from fromnoise.utils.device import ComputeConfig

_SOLVER = RungeKutta(6)  # coarse, but its error is the same for both parts
_BATCH = 64
_TRIAL_IMAGES = 8  # for the estimate of the duration

Log = Callable[[str], None]


@dataclass(frozen=True)
class CodeLengths:
    """Code lengths by the probability-flow ODE, bits/dim.

    Attributes:
        held_out: of held-out images.
        training: of training images.
        gap: held-out minus training, adjusted for local variation; clearly above 0 if training images were memorized.
    """

    held_out: Estimate
    training: Estimate
    gap: Estimate


def comparable_models(sources: Sequence[ImageSource], data: Data, log: Log) -> dict[str, Model]:
    """Models that were trained on these images with this split, by the name of their source.

    Args:
        sources: of which some have models.
        data: the real images, split as the recipe of the first model that records its data says.
        log: called with a line for each model that is left out.
    """
    known = [(s.name, s.model) for s in sources if isinstance(s.model, Model)]  # bits of a VAE: fromnoise bits
    if not known:
        return {}
    out, split = {}, _split(first_with_data([model for _, model in known]))
    for name, model in known:
        if model.is_distilled:
            log(f"{name} was distilled: it has no bits/dim to compare")
        elif model.dataset_info.fingerprint == data.fingerprint and _split(model) == split:
            out[name] = model
        elif not model.recipe.data.source:
            log(f"{name} does not record its training data: its bits/dim are not compared")
        else:
            log(f"{name} was trained on other images or with another split: its bits/dim are not compared")
    return out


def _split(model: Model) -> tuple[object, ...]:
    """What the split of a data set depends on."""
    return model.recipe.data.holdout, model.recipe.train.seed, model.recipe.data.attributes


def code_lengths(
    model: Model, data: Data, compute: ComputeConfig, count: int, on_progress: Callable[[int], object]
) -> CodeLengths:
    """Measure the code lengths of held-out images and of as many training images.

    Args:
        model: on ``compute.device``, in eval mode.
        data: with the split of the training.
        compute: device.
        count: images of each part, at most.
        on_progress: called with the number of further images done.
    """
    evaluator = _evaluator(model, compute)
    bits, variation = [], []
    for images in (data.held_out, data.train):
        pixels, labels = random_subset(images, model, count)
        bits.append(evaluator.flow(pixels, labels, _SOLVER, on_progress=on_progress))
        variation.append(local_variation(pixels))
    gap = adjusted_gap(bits[0], bits[1], variation[0], variation[1], shared_noise=True)
    return CodeLengths(Estimate.mean_of(bits[0]), Estimate.mean_of(bits[1]), gap)


def _evaluator(model: Model, compute: ComputeConfig) -> LikelihoodEvaluator:
    """In single precision, since the trace amplifies rounding."""
    return LikelihoodEvaluator(model, replace(compute, dtype=torch.float32), batch=_BATCH)


def local_variation(pixels: Tensor) -> Tensor:
    """Mean of log(1 + |difference|) over neighbouring pixels: a model-free measure of an image's complexity.

    Args:
        pixels: uint8 (N, C, H, W).

    Returns:
        float64 (N,).
    """
    x = pixels.double()
    differences = [x.diff(dim=d).abs().log1p().flatten(1) for d in (-2, -1)]
    return torch.cat(differences, 1).mean(1)


def adjusted_gap(
    held_out: Tensor,
    training: Tensor,
    held_out_variation: Tensor,
    training_variation: Tensor,
    shared_noise: bool = False,
) -> Estimate:
    """Difference of mean code lengths, adjusted for local variation.

    Code lengths differ mostly by the complexity of the images. An analysis of covariance (Fisher 1932), with one slope
    for both parts, removes that difference and most of the standard error with it.

    Args:
        held_out: code lengths of held-out images, float64 (N,), N at least 2.
        training: the same of training images, (M,).
        held_out_variation: local variation of the held-out images, (N,).
        training_variation: local variation of the training images, (M,).
        shared_noise: whether the i-th image of both parts was coded with the same noise: their covariance is then
            subtracted from the variance.
    """
    parts = [(held_out, held_out_variation), (training, training_variation)]
    scatter = sum(float((v - v.mean()).square().sum()) for _, v in parts)
    shared = sum(float(((v - v.mean()) * (b - b.mean())).sum()) for b, v in parts)
    slope = shared / scatter if scatter > 0 else 0.0
    difference = float(held_out_variation.mean() - training_variation.mean())
    first, second = (b - b.mean() - slope * (v - v.mean()) for b, v in parts)
    residuals = torch.cat([first, second])
    variance = float(residuals.square().sum()) / max(1, len(residuals) - 3)
    factor = 1 / len(held_out) + 1 / len(training) + (difference**2 / scatter if scatter > 0 else 0.0)
    value = float(held_out.mean() - training.mean()) - slope * difference
    pairs = min(len(held_out), len(training))
    covariance = float(torch.stack([first[:pairs], second[:pairs]]).cov()[0, 1]) if shared_noise and pairs > 1 else 0.0
    total = variance * factor - 2 * covariance * pairs / (len(held_out) * len(training))
    return Estimate(value, math.sqrt(max(total, 0.0)), pairs)


def all_code_lengths(
    models: dict[str, Model], data: Data, compute: ComputeConfig, count: int, on_progress: Callable[[str, int], object]
) -> dict[str, CodeLengths]:
    """``code_lengths`` of several sources; a model that several sources share is measured once.

    Args:
        models: by the name of the source.
        data: as of ``code_lengths``.
        compute: as of ``code_lengths``.
        count: as of ``code_lengths``.
        on_progress: called with the name of the source and the number of further images done.
    """
    done: dict[int, CodeLengths] = {}
    for name, model in models.items():
        if id(model) not in done:
            done[id(model)] = code_lengths(model, data, compute, count, lambda more, name=name: on_progress(name, more))
    return {name: done[id(model)] for name, model in models.items()}


def image_count(models: dict[str, Model], data: Data, count: int) -> int:
    """Number of images that ``all_code_lengths`` measures."""
    different = len({id(model) for model in models.values()})
    return different * sum(min(count, len(part)) for part in (data.held_out, data.train))


def estimated_seconds(models: dict[str, Model], data: Data, compute: ComputeConfig, count: int) -> float:
    """Estimated duration of ``all_code_lengths``, by one step of the solver on a few images."""
    if not models:
        return 0.0
    model = next(iter(models.values()))
    few = random_subset(data.held_out, model, min(_TRIAL_IMAGES, count))
    start = time.perf_counter()
    _evaluator(model, compute).flow(*few, RungeKutta(1))
    return (time.perf_counter() - start) / len(few[0]) * _SOLVER.steps * image_count(models, data, count)
