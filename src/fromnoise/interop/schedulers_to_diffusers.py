"""The schedule, the target and the sampling of a model as a scheduler of diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fromnoise.config import SamplingConfig
from fromnoise.diffusion.schedules import BetaSchedule
from fromnoise.interop.diffusers_schedulers import CURVES, TARGETS
from fromnoise.model import Model
from fromnoise.utils.errors import UserError

_KINDS = {
    "ancestral": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "euler": "DDIMScheduler",
    "dpmpp-2m": "DPMSolverMultistepScheduler",
    "dpmpp-2m-sde": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
_VARIANCES = {0.0: "fixed_small", 1.0: "fixed_large", None: "learned_range"}
_NO_LIMIT = 1e6  # of a dynamic threshold


@dataclass(frozen=True)
class SchedulerFile:
    """A scheduler of diffusers.

    Attributes:
        class_name: of the scheduler.
        config: its options.
        steps: with which it draws as fromnoise does.
        step_options: arguments of its ``step``.
        notes: what its user must know.
    """

    class_name: str
    config: dict[str, Any]
    steps: int
    step_options: dict[str, Any]
    notes: list[str]


def write_scheduler(model: Model, config: SamplingConfig) -> SchedulerFile:
    """The scheduler that draws what ``config`` draws.

    Raises:
        UserError: there is none; the message says why.
    """
    recipe, target = model.recipe, model.recipe.diffusion.target.kind
    names = {ours: theirs for theirs, ours in TARGETS.items()}
    if target not in names:
        raise UserError(f"diffusers has no prediction type for diffusion.target = {target}: it has eps, x0 and v")
    if config.sampler.kind not in _KINDS:
        raise UserError(
            f"diffusers has no scheduler with the steps of sampler {config.sampler.kind}: "
            f"give --sampler {' or '.join(_KINDS)}"
        )
    for key, value in (("loss.offset_noise", recipe.loss.offset_noise), ("sample.truncation", config.truncation)):
        if value:
            raise UserError(f"{key} = {value}: diffusers' pipelines draw plain Gaussian noise, so images would differ")
    name, notes = _KINDS[config.sampler.kind], []
    if model.denoiser.learned_variance and name != "DDPMScheduler":
        raise UserError(
            f"diffusion.learned_variance: diffusers' {name} does not take a predicted variance of any number of "
            "channels; give --sampler ancestral"
        )
    steps = model.steps(config)
    values = {"prediction_type": names[target], **_betas(model, name), **_grid(model, config, name)}
    step_options: dict[str, Any] = {}
    if name == "DDPMScheduler":
        values |= _ddpm(model, config)
        last = int(round(float(model.levels(config)[-2].t) * values["num_train_timesteps"]))
        if values["variance_type"] != "fixed_small" and last > 1:
            notes.append("diffusers adds noise to the result, as its last step is not from t = 0; fromnoise does not")
    elif name == "DDIMScheduler":
        values |= {"clip_sample": config.clip and config.threshold is None, **_threshold(config)}
        step_options["eta"] = getattr(config.sampler, "eta", 0.0)
        if config.clip or config.threshold is not None:
            step_options["use_clipped_model_output"] = True
    else:
        clipped = {"thresholding": config.clip, "sample_max_value": 1.0}  # a threshold of 1 is clipping
        values |= clipped | _threshold(config)
        if name == "UniPCMultistepScheduler":
            values["solver_order"] = getattr(config.sampler, "order", 2)
        elif config.sampler.kind.endswith("sde"):
            values["algorithm_type"] = "sde-dpmsolver++"
    return SchedulerFile(name, values, steps, step_options, notes)


def _betas(model: Model, name: str) -> dict[str, Any]:
    """The options that describe the betas."""
    schedule, config = model.schedule, model.recipe.diffusion
    curves = {ours: theirs for theirs, ours in CURVES.items() if theirs != "sigmoid" or name == "DDPMScheduler"}
    kind: Any = config.schedule
    values: dict[str, Any] = {"num_train_timesteps": schedule.steps or 1000}
    if config.zero_terminal_snr:
        if name not in ("DDPMScheduler", "DDIMScheduler"):
            raise UserError(
                f"diffusion.zero_terminal_snr: diffusers' {name} replaces the SNR of 0, so images would differ; "
                "give --sampler ancestral or ddim"
            )
        values["rescale_betas_zero_snr"] = True
    scale = 1000 / kind.steps if kind.kind == "linear" and kind.rescale else 1.0
    literal = kind.kind != "linear" or scale * max(kind.beta_start, kind.beta_end) <= 0.999
    default = kind.kind != "cosine" or kind.offset == 0.008
    if kind.kind in curves and literal and default:
        values["beta_schedule"] = curves[kind.kind]
        if kind.kind != "cosine":
            values |= {"beta_start": scale * kind.beta_start, "beta_end": scale * kind.beta_end}
        return values
    if isinstance(schedule, BetaSchedule):
        if config.zero_terminal_snr:
            raise UserError(f"diffusion.zero_terminal_snr with schedule {kind.kind} cannot be written for diffusers")
        return values | {"trained_betas": schedule.betas.tolist()}
    total = values["num_train_timesteps"]
    a = torch.sigmoid(schedule.logsnr(torch.arange(total + 1, dtype=torch.float64) / total))
    return values | {"trained_betas": (1 - a[1:] / a[:-1]).tolist()}


def _grid(model: Model, config: SamplingConfig, name: str) -> dict[str, Any]:
    """The options that describe the times."""
    multistep = name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
    grid: Any = config.grid
    kind = grid.kind if grid is not None else model.sampler(config).default_grid
    end, drop = getattr(grid, "end", 0), getattr(grid, "drop", int(multistep))
    spacing = {"uniform": "trailing", "trailing": "trailing", "leading": "leading", "linspace": "linspace"}.get(kind)
    wrong_drop = spacing in ("leading", "linspace") and drop != int(multistep)
    if spacing is None or wrong_drop or end > 1 or (end and name == "DDPMScheduler"):
        raise UserError(f"diffusers' {name} has no times like sample.grid = {kind} of this model; give --sampler")
    values: dict[str, Any] = {"timestep_spacing": spacing}
    if spacing == "leading":
        values["steps_offset"] = getattr(grid, "offset", 0)
    if multistep:
        values["final_sigmas_type"] = "sigma_min" if end else "zero"
    elif name == "DDIMScheduler":
        values["set_alpha_to_one"] = not end
    total, steps = values_total(model), model.steps(config)
    if name == "DDIMScheduler" and spacing == "trailing" and total % steps:
        raise UserError(f"diffusers' DDIM steps by T // steps: give --steps a divisor of {total}, not {steps}")
    return values


def values_total(model: Model) -> int:
    """T of the scheduler."""
    return model.schedule.steps or 1000


def _ddpm(model: Model, config: SamplingConfig) -> dict[str, Any]:
    """The variance and the clipping of DDPM."""
    variance = model.variance(config)
    if variance not in _VARIANCES:
        raise UserError(f"diffusers' DDPM has the small (0) and the large variance (1), not {variance:g}")
    if model.denoiser.learned_variance and variance is not None:
        raise UserError("diffusers' DDPM uses the variance that a network learned: leave out sample.sampler.variance")
    clip = config.clip and config.threshold is None
    return {"variance_type": _VARIANCES[variance], "clip_sample": clip, **_threshold(config)}


def _threshold(config: SamplingConfig) -> dict[str, Any]:
    """Dynamic thresholding."""
    if config.threshold is None:
        return {}
    return {"thresholding": True, "dynamic_thresholding_ratio": config.threshold, "sample_max_value": _NO_LIMIT}
