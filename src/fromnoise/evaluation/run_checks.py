"""Checks of a training run: its reports, its loss and its moving averages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fromnoise import config, registry
from fromnoise.config import Recipe
from fromnoise.data import Data, shuffled_indices, to_float
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.diffusion.targets import Target
from fromnoise.diffusion.weightings import Weighting
from fromnoise.evaluation.findings import Finding
from fromnoise.model import Model

_IMAGES = 4000  # to which the linear denoiser is fitted
_MAX_COVARIANCE = 1024  # values of an image up to which the full covariance is used
_TIMES = 64

Reports = Sequence[dict[str, Any]]


def check_reports(reports: Reports) -> Iterator[Finding]:
    """Problems that the lines of reports.jsonl show.

    Args:
        reports: as ``RunDir.read_reports`` returns them.
    """
    if not reports:
        return
    last = reports[-1]
    if last["dropped_steps"]:
        yield Finding(
            "dropped",
            f"{last['dropped_steps']:,} of {last['step']:,} steps were dropped because the loss or a gradient was "
            "not finite",
            "lower train.lr, or set train.clip 1.0",
        )
    measured = [r for r in reports if r.get("held_out_loss") is not None and r.get("held_out_loss_raw") is not None]
    if measured and measured[-1]["held_out_loss"] > 1.03 * measured[-1]["held_out_loss_raw"]:
        yield Finding(
            "ema",
            f"the EMA weights lag behind: held-out loss {measured[-1]['held_out_loss']:.4g} with EMA weights, "
            f"{measured[-1]['held_out_loss_raw']:.4g} with raw weights",
            "train longer, or use a shorter EMA: ema.decays [0.99], or ema.widths [0.1], which scales with the budget",
        )
    yield from _loss_curve([r["held_out_loss_raw"] for r in measured])


def _loss_curve(losses: Sequence[float]) -> Iterator[Finding]:
    """A held-out loss that rises, or has not fallen in the second half."""
    if len(losses) < 6:
        return
    half, best = len(losses) // 2, min(losses)
    late = sum(losses[-2:]) / 2
    if late > 1.1 * best:
        yield Finding(
            "overfitting",
            f"the held-out loss has risen from {best:.4g} to {late:.4g}",
            "train for fewer steps or on more images, raise network.dropout, or set data.flip",
        )
    elif min(losses[half:]) > 0.999 * min(losses[:half]):
        yield Finding(
            "plateau",
            f"the held-out loss has not fallen since the middle of the run ({best:.4g})",
            "decay the learning rate (train.decay cosine), use a larger network, or stop; samples may still improve, "
            "which fromnoise evaluate measures",
        )


def check_loss(reports: Reports, model: Model, data: Data) -> Iterator[Finding]:
    """A held-out loss above that of the best linear denoiser, or outside of the range that the recipe states.

    Args:
        reports: of the run.
        model: its recipe and schedule.
        data: its images.
    """
    measured = [r["held_out_loss_raw"] for r in reports if r.get("held_out_loss_raw") is not None]
    if not measured:
        return
    limit = linear_loss(model, data)
    if limit is not None and measured[-1] > limit:
        yield Finding(
            "loss",
            f"the held-out loss is {measured[-1]:.4g}, above the {limit:.4g} of the best linear denoiser",
            "train longer; if it does not fall, lower train.lr and look at the images with fromnoise show data",
        )
        return
    expected = expected_loss(model.recipe)
    if expected is None or not _finished(reports, model.recipe, len(data.train)):
        return
    low, high = expected
    if measured[-1] > high:
        yield Finding(
            "loss_range",
            f"the held-out loss is {measured[-1]:.4g}, above the {low:g} to {high:g} of recipe {model.recipe.name} "
            f"({model.recipe.loss_source})",
            "look at the images with fromnoise show data, and compare the log with that of another seed",
        )
    elif measured[-1] < low:
        yield Finding(
            "loss_range",
            f"the held-out loss is {measured[-1]:.4g}, below the {low:g} to {high:g} of recipe {model.recipe.name} "
            f"({model.recipe.loss_source})",
            "check whether held-out images are also training images",
        )


def _finished(reports: Reports, recipe: Recipe, images: int) -> bool:
    """Whether a budget of steps or epochs is used up."""
    last, train = reports[-1], recipe.train
    if train.steps is not None:
        return last["step"] >= train.steps
    return train.epochs is not None and last.get("images", 0) >= int(train.epochs) * images


_NEUTRAL = tuple(
    f"train.{key}"
    for key in (
        *("seed", "previews", "report_every", "checkpoint_seconds", "checkpoint_steps", "held_out", "evaluations"),
        *("tracker", "evaluation_share"),
    )
)
"""Keys that do not change the loss at the end of the budget."""
_NEUTRAL_SECTIONS = (
    "sample",
    "published",
    "evaluation",
    "clustering",
    "ema",
    "about",
    "cost",
    "quality",
    "expected_loss",
    "loss_source",
)


def expected_loss(recipe: Recipe) -> tuple[float, float] | None:
    """The range of the held-out loss that a recipe states; None if it states none, or if keys that change it differ."""
    if recipe.expected_loss is None or recipe.name not in config.names():
        return None
    changed = config.difference(recipe, config.load(recipe.name), _NEUTRAL)
    own = [line.split()[0] for line in changed]
    return recipe.expected_loss if all(key.split(".")[0] in _NEUTRAL_SECTIONS for key in own) else None


def linear_loss(model: Model, data: Data) -> float | None:
    """Held-out loss of the best linear denoiser of the training images; None where it has no closed form.

    With the variances v of the images along their principal axes, A = alpha^2 and S = sigma^2, the least error in x_0
    of a linear estimate from x_t is the posterior variance S v / (A v + S) of a Gaussian. Errors in any target are
    ``snr_weight`` times as large; the loss weights them and averages over the times of the time sampler.

    Args:
        model: its recipe, schedule and target.
        data: its images.
    """
    recipe, denoiser = model.recipe, model.denoiser
    plain = recipe.loss.objective.kind == "simple" and recipe.loss.distance.kind == "mse"
    if (
        not plain
        or model.latent_space is not None
        or recipe.loss.offset_noise
        or recipe.loss.time_sampler.kind == "importance"
        or len(data.train) < 2
    ):
        return None
    weighting = registry.build("weighting", recipe.loss.weighting.kind, recipe.loss.weighting.options())
    times = registry.build("time_sampler", recipe.loss.time_sampler.kind, recipe.loss.time_sampler.options())
    images = data.train.get(shuffled_indices(len(data.train), 0, range(min(_IMAGES, len(data.train)))))
    u = (torch.arange(_TIMES, dtype=torch.float64) + 0.5) / _TIMES
    return weighted_linear_loss(
        principal_variances(images), model.schedule.at(times.time(u, model.schedule)), denoiser.target, weighting
    )


def weighted_linear_loss(variances: Tensor, level: NoiseLevel, target: Target, weighting: Weighting) -> float:
    """Mean over noise levels of the weighted squared error of the best linear denoiser.

    Args:
        variances: float64 (D,) of the images along their principal axes.
        level: noise levels (T,) of equal probability.
        target: what the network regresses.
        weighting: of the loss.
    """
    signal, noise = level.alpha.square()[:, None], level.sigma.square()[:, None]
    error = (noise * variances / (signal * variances + noise)).mean(1)
    return float((weighting.weight(level, target) * target.snr_weight(level) * error).mean())


def principal_variances(images: Tensor) -> Tensor:
    """Variances of images in [-1, 1] along their principal axes; of each pixel if an image has over 1,024 values.

    Args:
        images: uint8 (N, C, H, W).

    Returns:
        float64 (C H W,).
    """
    x = to_float(images).double().flatten(1)
    x = x - x.mean(0)
    if x.shape[1] > _MAX_COVARIANCE:
        return x.square().sum(0) / (len(x) - 1)
    return torch.linalg.eigvalsh(x.T @ x / (len(x) - 1)).clamp(min=0)
