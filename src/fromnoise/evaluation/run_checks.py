"""Checks of a training run: its reports, its loss and its moving averages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fromnoise.data import Data, shuffled_indices, to_float
from fromnoise.diffusion.schedules import Schedule
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
    """A held-out loss above that of the best linear denoiser.

    Args:
        reports: of the run.
        model: its recipe and schedule.
        data: its images.
    """
    config = model.recipe.loss
    measured = [r["held_out_loss_raw"] for r in reports if r.get("held_out_loss_raw") is not None]
    target = model.recipe.diffusion.target.kind
    if (
        not measured
        or config.distance.kind != "mse"
        or config.weighting.kind != "constant"
        or target not in linear_losses
    ):
        return
    count = min(_IMAGES, len(data.train))
    images = data.train.get(shuffled_indices(len(data.train), 0, range(count)))
    linear = linear_losses[target](principal_variances(images), model.schedule)
    if measured[-1] > linear:
        yield Finding(
            "loss",
            f"the held-out loss is {measured[-1]:.4g}, above the {linear:.4g} of the best linear denoiser",
            "train longer; if it does not fall, lower train.lr and look at the images with fromnoise show data",
        )


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


def _linear_eps(variances: Tensor, schedule: Schedule) -> float:
    """Mean over t of the least squared error of a linear estimate of eps from x_t: ``A v / (A v + S)`` for variance v.

    A = alpha^2, S = sigma^2: the posterior variance of eps under a Gaussian of the images' mean and covariance.
    """
    level = schedule.at((torch.arange(_TIMES, dtype=torch.float64) + 0.5) / _TIMES)
    signal = level.alpha.square()[:, None] * variances
    return float((signal / (signal + level.sigma.square()[:, None])).mean())


def _linear_x0(variances: Tensor, schedule: Schedule) -> float:
    """The same for x_0: ``S v / (A v + S)``."""
    level = schedule.at((torch.arange(_TIMES, dtype=torch.float64) + 0.5) / _TIMES)
    noise = level.sigma.square()[:, None]
    return float((noise * variances / (level.alpha.square()[:, None] * variances + noise)).mean())


def _linear_v(variances: Tensor, schedule: Schedule) -> float:
    """The same for v = alpha eps - sigma x_0, whose error given x_t is that of x_0 / sigma: ``v / (A v + S)``."""
    level = schedule.at((torch.arange(_TIMES, dtype=torch.float64) + 0.5) / _TIMES)
    return float((variances / (level.alpha.square()[:, None] * variances + level.sigma.square()[:, None])).mean())


linear_losses = {"eps": _linear_eps, "x0": _linear_x0, "v": _linear_v}
"""Loss of the best linear denoiser by target, from the images' variances and the schedule."""
