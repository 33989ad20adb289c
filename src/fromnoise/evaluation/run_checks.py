"""What is wrong with a run: its reports, its loss and its averages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fromnoise.data import Data, shuffled_indices, to_float
from fromnoise.diffusion.schedules import Schedule
from fromnoise.evaluation.findings import Finding
from fromnoise.model import Model

_IMAGES = 4000  # that the linear denoiser is fitted to
_WIDEST = 1024  # values of an image of which all correlations are taken
_TIMES = 64

Reports = Sequence[dict[str, Any]]


def of_reports(reports: Reports) -> Iterator[Finding]:
    """Faults that the lines of reports.jsonl show.

    Args:
        reports: as ``RunDir.read_reports`` gives them.
    """
    if not reports:
        return
    last = reports[-1]
    if last["dropped"]:
        yield Finding(
            "dropped",
            f"{last['dropped']:,} of {last['step']:,} steps were dropped because loss or gradient was not finite",
            "lower train.lr, or set train.clip 1.0",
        )
    measured = [r for r in reports if r.get("held_out") is not None and r.get("held_out_raw") is not None]
    if measured and measured[-1]["held_out"] > 1.03 * measured[-1]["held_out_raw"]:
        yield Finding(
            "ema",
            f"the averaged weights lag behind: held-out loss {measured[-1]['held_out']:.4g} averaged, "
            f"{measured[-1]['held_out_raw']:.4g} raw",
            "train longer, or take a shorter average: ema.decays [0.99], or ema.widths [0.1], which follows any budget",
        )
    yield from _course([r["held_out_raw"] for r in measured])


def _course(losses: Sequence[float]) -> Iterator[Finding]:
    """A held-out loss that rises, or has not fallen in the second half."""
    if len(losses) < 6:
        return
    half, best = len(losses) // 2, min(losses)
    late = sum(losses[-2:]) / 2
    if late > 1.1 * best:
        yield Finding(
            "overfitting",
            f"the held-out loss has risen from {best:.4g} to {late:.4g}",
            "train for fewer steps or on more images, raise network.dropout, set data.flip",
        )
    elif min(losses[half:]) > 0.999 * min(losses[:half]):
        yield Finding(
            "plateau",
            f"the held-out loss has not fallen since the middle of the run ({best:.4g})",
            "lower train.lr towards the end (train.decay cosine), take a larger network, or stop: samples may still "
            "get better, which fromnoise evaluate tells",
        )


def of_loss(reports: Reports, model: Model, data: Data) -> Iterator[Finding]:
    """A held-out loss that a linear denoiser beats.

    Args:
        reports: of the run.
        model: its recipe, facts and schedule.
        data: its images.
    """
    config = model.recipe.loss
    measured = [r["held_out_raw"] for r in reports if r.get("held_out_raw") is not None]
    target = model.recipe.diffusion.target
    if not measured or config.metric != "mse" or config.weighting != "simple" or target not in linear_losses:
        return
    count = min(_IMAGES, len(data.train))
    bar = linear_losses[target](
        variances(data.train.get(shuffled_indices(len(data.train), 0, range(count)))), model.schedule
    )
    if measured[-1] > bar:
        yield Finding(
            "loss",
            f"the held-out loss is {measured[-1]:.4g}, and the best linear denoiser of these images has {bar:.4g}",
            "train longer; if it does not fall, lower train.lr and look at the data with fromnoise show data",
        )


def variances(images: Tensor) -> Tensor:
    """Variances along the principal axes of images in [-1, 1]; of each pixel where an image has over 1,024 values.

    Args:
        images: uint8 (N, C, H, W).

    Returns:
        float64 (C H W,).
    """
    x = to_float(images).double().flatten(1)
    x = x - x.mean(0)
    if x.shape[1] > _WIDEST:
        return x.square().sum(0) / (len(x) - 1)
    return torch.linalg.eigvalsh(x.T @ x / (len(x) - 1)).clamp(min=0)


def _linear_eps(axes: Tensor, schedule: Schedule) -> float:
    """Mean over t of the least squared error of eps by a linear map of x: ``A v / (A v + S)`` for variance v.

    A = alpha^2, S = sigma^2: the posterior variance of eps under a Gaussian of the images' mean and covariance.
    """
    level = schedule.at((torch.arange(_TIMES, dtype=torch.float64) + 0.5) / _TIMES)
    signal = level.alpha.square()[:, None] * axes
    return float((signal / (signal + level.sigma.square()[:, None])).mean())


def _linear_x0(axes: Tensor, schedule: Schedule) -> float:
    """The same of x0: ``S v / (A v + S)``."""
    level = schedule.at((torch.arange(_TIMES, dtype=torch.float64) + 0.5) / _TIMES)
    noise = level.sigma.square()[:, None]
    return float((noise * axes / (level.alpha.square()[:, None] * axes + noise)).mean())


def _linear_v(axes: Tensor, schedule: Schedule) -> float:
    """The same of v = alpha eps - sigma x0: given x its error is that of x0 over sigma: ``v / (A v + S)``."""
    level = schedule.at((torch.arange(_TIMES, dtype=torch.float64) + 0.5) / _TIMES)
    return float((axes / (level.alpha.square()[:, None] * axes + level.sigma.square()[:, None])).mean())


linear_losses = {"eps": _linear_eps, "x0": _linear_x0, "v": _linear_v}
