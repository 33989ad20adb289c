"""How many bits a model needs for images that it learned from and for others: what it learned by heart."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.data import Data
from fromnoise.diffusion.likelihood.ode import RungeKutta
from fromnoise.evaluation.likelihood import Measure, some
from fromnoise.evaluation.metrics.frechet import Estimate
from fromnoise.evaluation.sources import ImageSource
from fromnoise.model import Model
from fromnoise.utils.device import ComputeConfig

COUNT = 64
"""Images of each piece, unless more are asked for."""
_SOLVER = RungeKutta(6)  # its error is the same for both pieces
_BATCH = 64
_TRIED = 8  # images, and one step of the solver, by which the time is told

Log = Callable[[str], None]


@dataclass(frozen=True)
class Lengths:
    """Code lengths by the flow, bits a dimension.

    Attributes:
        held_out: of images that were not learned from.
        training: of images that were.
        gap: held out less training, at equal roughness: what is well above 0 was memorised.
    """

    held_out: Estimate
    training: Estimate
    gap: Estimate


def models(subjects: Sequence[ImageSource], data: Data, log: Log) -> dict[str, Model]:
    """Which subjects have a code length: by name, the models that learned from these images as they are split here.

    Args:
        subjects: what is judged.
        data: the real images, split as the first model's recipe says.
        say: takes a line for each model that is left out.
    """
    known = [(s.name, s.model) for s in subjects if s.model is not None]
    out = {}
    for name, model in known:
        if model.dataset_info.fingerprint == data.fingerprint and _split(model) == _split(known[0][1]):
            out[name] = model
        else:
            log(f"{name} learned from other images or held out others: its bits are not compared")
    return out


def _split(model: Model) -> tuple[object, ...]:
    """What the split of a set depends on."""
    return model.recipe.data.holdout, model.recipe.train.seed, model.recipe.data.attributes


def lengths(model: Model, data: Data, compute: ComputeConfig, count: int, on_step: Callable[[int], object]) -> Lengths:
    """Measure a model on held-out images and on as many training images.

    Args:
        model: placed on ``compute.device``, in eval mode.
        data: as it was split for the training.
        compute: where.
        count: images of each piece, at most.
        watch: called with how many images more are done.
    """
    measure = _measure(model, compute)
    bits, rough = [], []
    for images in (data.held_out, data.train):
        pixels, labels = some(images, model, count)
        bits.append(measure.flow(pixels, labels, _SOLVER, on_progress=on_step))
        rough.append(roughness(pixels))
    return Lengths(Estimate.of(bits[0]), Estimate.of(bits[1]), gap(bits[0], bits[1], rough[0], rough[1]))


def _measure(model: Model, compute: ComputeConfig) -> Measure:
    """In single precision, whatever the model draws in: a trace amplifies the rounding."""
    return Measure(model, replace(compute, dtype=torch.float32), batch=_BATCH)


def roughness(pixels: Tensor) -> Tensor:
    """How much there is to tell of images, whatever the model: mean of log(1 + difference) of neighbouring pixels.

    Args:
        pixels: uint8 (N, C, H, W).

    Returns:
        float64 (N,).
    """
    x = pixels.double()
    ways = [x.diff(dim=d).abs().log1p().flatten(1) for d in (-2, -1)]
    return torch.cat(ways, 1).mean(1)


def gap(held_out: Tensor, training: Tensor, held_rough: Tensor, training_rough: Tensor) -> Estimate:
    """Difference of the means of code lengths, at equal roughness.

    Code lengths differ mostly by how rough the images are, which has nothing to do with having been learned: a
    regression on it with one slope for both pieces (analysis of covariance; Fisher 1932) takes that out, and most of
    the error with it.

    Args:
        held_out: code lengths, float64 (N,), N at least 2.
        training: the same of training images, (M,).
        held_rough: roughness of the former, (N,).
        training_rough: roughness of the latter, (M,).
    """
    pieces = [(held_out, held_rough), (training, training_rough)]
    scatter = sum(float((r - r.mean()).square().sum()) for _, r in pieces)
    shared = sum(float(((r - r.mean()) * (b - b.mean())).sum()) for b, r in pieces)
    slope = shared / scatter if scatter > 0 else 0.0
    apart = float(held_rough.mean() - training_rough.mean())
    left = torch.cat([b - b.mean() - slope * (r - r.mean()) for b, r in pieces])
    variance = float(left.square().sum()) / max(1, len(left) - 3)
    spread = 1 / len(held_out) + 1 / len(training) + (apart**2 / scatter if scatter > 0 else 0.0)
    value = float(held_out.mean() - training.mean()) - slope * apart
    return Estimate(value, math.sqrt(variance * spread), min(len(held_out), len(training)))


def all_lengths(
    known: dict[str, Model], data: Data, compute: ComputeConfig, count: int, on_step: Callable[[str, int], object]
) -> dict[str, Lengths]:
    """The same of several, each model once though it be judged by several rules.

    Args:
        known: models by the name of the subject.
        data: as of ``lengths``.
        compute: as of ``lengths``.
        count: as of ``lengths``.
        watch: called with the subject's name and how many images more are done.
    """
    done: dict[int, Lengths] = {}
    for name, model in known.items():
        if id(model) not in done:
            done[id(model)] = lengths(model, data, compute, count, lambda more, name=name: on_step(name, more))
    return {name: done[id(model)] for name, model in known.items()}


def images(known: dict[str, Model], data: Data, count: int) -> int:
    """How many are measured."""
    return _different(known) * sum(min(count, len(piece)) for piece in (data.held_out, data.train))


def seconds(known: dict[str, Model], data: Data, compute: ComputeConfig, count: int) -> float:
    """What measuring will take, by one step of the solver on a few images."""
    if not known:
        return 0.0
    model = next(iter(known.values()))
    few = some(data.held_out, model, min(_TRIED, count))
    begun = time.perf_counter()
    _measure(model, compute).flow(*few, RungeKutta(1))
    return (time.perf_counter() - begun) / len(few[0]) * _SOLVER.steps * images(known, data, count)


def _different(known: dict[str, Model]) -> int:
    return len({id(model) for model in known.values()})
