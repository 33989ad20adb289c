"""Distillation of a finished run: the recipe of a model that samples in a few evaluations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from fromnoise import checkpoint
from fromnoise.config import Recipe, change
from fromnoise.config.component import CUSTOM
from fromnoise.diffusion.schedules import Schedule
from fromnoise.model import Model
from fromnoise.utils.errors import UserError

NOISE_LEVELS: dict[int, tuple[float, ...]] = {1: (), 2: (1.6,), 4: (6.0, 2.0, 0.6)}
"""For each number of evaluations sigma/alpha at the start of every step but the first, which starts at t = 1."""


def distillation_recipe(run: str | Path, steps: int, values: dict[str, Any] | None = None) -> Recipe:
    """The recipe by which a run is distilled.

    Everything that is not part of the method is that of the run: data, network, schedule, target, conditions, seed and
    batch.

    Args:
        run: run directory or .safetensors file.
        steps: evaluations of the distilled model's sampler, a key of ``NOISE_LEVELS``.
        values: other values by dotted key, such as a budget.

    Raises:
        UserError: the run cannot be distilled, or as ``change``.
    """
    if steps not in NOISE_LEVELS:
        raise UserError(f"--steps {steps} is not possible: distill to {', '.join(map(str, NOISE_LEVELS))} evaluations")
    base = checkpoint.load_model(run).model
    check_base(base, run)
    recipe, times = base.recipe, step_times(base.schedule, steps)
    chosen = {
        "name": f"{recipe.name}-distilled",
        "about": f"{recipe.name}, distilled to {steps} evaluation{'s' if steps > 1 else ''}",
        "cost": "",
        "quality": "",
        "loss_source": "",
        "loss.objective": {"kind": "consistency", "clip": recipe.sample.clip},
        "loss.time_sampler": {"kind": "times", "times": times, "share": 1.0},
        "latent.source": "",
        "data.large_recipe": "",
        "train.init_from": str(run),
        "train.minutes": 10.0,
        "train.optimizer": "muon",
        "train.lr": 1e-3,
        "train.warmup": 20,
        "train.decay": "linear",
        "train.decay_from": 0.3,
        "train.clip": 1.0,
        "train.autosize": (),
        "train.min_steps": 1,
        "ema.decays": (),
        "ema.widths": (0.1,),
        "ema.best_epoch": False,
        "ema.weak_at": 0.0,
        "sample.sampler": "consistency",
        "sample.steps": steps,
        "sample.grid": {"kind": "times", "times": times},
        "sample.guidance": 1.0,
        "evaluation.times": 0,
    }
    if hasattr(recipe.network, "dropout"):
        chosen["network.dropout"] = 0.0  # it would add noise to a regression on fixed targets
    dropped = {"expected_loss": None, "published": None}
    return change(recipe.model_copy(update=dropped), chosen | (values or {}))


def step_times(schedule: Schedule, steps: int) -> tuple[float, ...]:
    """Times t at which the steps of a sampler start, by ``NOISE_LEVELS``; on the steps of a beta schedule.

    Raises:
        UserError: the schedule has too few steps.
    """
    levels = torch.tensor([-2 * math.log(level) for level in NOISE_LEVELS[steps]], dtype=torch.float64)
    times = [1.0, *schedule.time_from_logsnr(levels).tolist()]
    count = schedule.steps or 1000
    if count < 2 * steps:
        raise UserError(f"a schedule of {count} steps is too coarse to distill to {steps}: use fewer --steps")
    return tuple(round(t * count) / count for t in times)


def check_base(model: Model, run: object) -> None:
    """Check that a model can be distilled.

    Raises:
        UserError: it cannot; the message says why, and what can.
    """
    recipe = model.recipe
    if recipe.loss.objective.kind == "consistency":
        raise UserError(f"{run} was distilled already: distill the run that it was made from")
    if recipe.network.kind == CUSTOM:
        raise UserError(f"{run} has a custom network, whose code a file does not contain: it cannot be distilled")
    if recipe.diffusion.target.kind in ("eps", "posterior-mean"):
        raise UserError(
            f"{run} has target {recipe.diffusion.target.kind}, which does not determine x_0 at pure noise, where few "
            "steps begin: train a model with diffusion.target edm, v or x0, such as recipe fast"
        )
    for key, has in (
        ("self-conditioning", model.denoiser.self_conditioning),
        ("a learned variance", model.denoiser.learned_variance),
    ):
        if has:
            raise UserError(f"{run} has {key}, which few steps cannot use: train a model without it to distill")
