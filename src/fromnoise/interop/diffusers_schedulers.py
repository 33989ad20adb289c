"""Schedulers of diffusers as sections of a recipe.

One ``scheduler_config.json`` is a schedule, a target, a sampler, a time grid and clipping. The betas and
``prediction_type`` belong to the model; the class, ``timestep_spacing`` and clipping say how it is sampled, and can be
replaced by ``--sampling default``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fromnoise.diffusion.schedules import MAX_STEPS
from fromnoise.interop.foreign_config import ForeignConfig

TARGETS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
CURVES = {
    "linear": "linear",
    "scaled_linear": "scaled-linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid-betas",
}
CLASSES = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
_MULTISTEP = CLASSES[2:]
_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas")


@dataclass(frozen=True)
class Scheduler:
    """A scheduler as sections of a recipe.

    Attributes:
        diffusion: the section ``diffusion``.
        sample: the section ``sample``; empty for fromnoise's defaults.
        notes: what differs from diffusers.
    """

    diffusion: dict[str, Any]
    sample: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def read_scheduler(config: ForeignConfig, *, default_sampling: bool) -> Scheduler:
    """Translate a scheduler.

    Args:
        config: its options, with ``_class_name``.
        default_sampling: leave the sampling to fromnoise; then the betas and the prediction type alone are read, and
            any class of a variance-preserving process is understood.

    Raises:
        UserError: an option is not supported.
    """
    notes: list[str] = []
    learned = config.choice("variance_type", None, _VARIANCES)[1]
    diffusion = {"schedule": _schedule(config), "target": config.choice("prediction_type", "epsilon", TARGETS)}
    diffusion |= {"zero_terminal_snr": config.flag("rescale_betas_zero_snr", False), "learned_variance": learned}
    if default_sampling:
        if str(config.get("_class_name", "")).startswith(("ScoreSde", "Karras", "EDM", "Flow")):
            raise config.refuse("_class_name", "the scheduler of a variance-preserving process")
        return Scheduler(diffusion, {})
    name = config.choice("_class_name", None, CLASSES)
    if diffusion["zero_terminal_snr"] and name in _MULTISTEP:
        notes.append("rescale_betas_zero_snr: diffusers replaces the SNR of 0 by 2^-24 here, so the first steps differ")
    sampler = {
        "DDPMScheduler": _ddpm,
        "DDIMScheduler": _ddim,
        "DPMSolverMultistepScheduler": _dpm_solver,
        "UniPCMultistepScheduler": _unipc,
    }[name](config, notes)
    sample = {"sampler": sampler, "grid": _grid(config, name, notes), **_clipping(config, name, notes)}
    notes += [f"{option} is ignored, as diffusers' {name} ignores it" for option in config.unread()]
    return Scheduler(diffusion, sample, notes)


_VARIANCES: dict[str | None, tuple[float | None, bool]] = {
    None: (0.0, False),
    "fixed_small": (0.0, False),
    "fixed_small_log": (0.0, False),
    "fixed_large": (1.0, False),
    "learned_range": (None, True),
}
"""Variance of the ancestral sampler, and whether the network predicts it."""


def _schedule(config: ForeignConfig) -> dict[str, Any]:
    """The betas as a schedule."""
    steps = config.integer("num_train_timesteps", 1000, 1, MAX_STEPS)
    start, end = config.number("beta_start", 1e-4), config.number("beta_end", 0.02)
    curve = config.choice("beta_schedule", "linear", CURVES)
    if config.get("trained_betas", None) is not None:
        betas = config.many("trained_betas", (), float, MAX_STEPS)
        if len(betas) != steps:
            raise config.refuse("trained_betas", f"num_train_timesteps = {steps} of them")
        return {"kind": "betas", "betas": [float(b) for b in betas]}
    if curve == "cosine":
        return {"kind": curve, "steps": steps}
    literal = {"rescale": False} if curve == "linear" else {}
    return {"kind": curve, "steps": steps, "beta_start": start, "beta_end": end, **literal}


def _ddpm(config: ForeignConfig, notes: list[str]) -> dict[str, Any]:
    variance = config.choice("variance_type", None, _VARIANCES)[0]
    if variance != 0.0:
        kind = config.get("variance_type", None)
        notes.append(f"variance_type {kind}: where the last step is not from t = 0, diffusers adds noise to the result")
    return {"kind": "ancestral", "variance": variance}


def _ddim(config: ForeignConfig, notes: list[str]) -> dict[str, Any]:
    if config.flag("clip_sample", True):
        notes.append("clip_sample: fromnoise clips as diffusers' DDIMPipeline does with use_clipped_model_output=True")
    return {"kind": "ddim", "eta": 0.0}


def _dpm_solver(config: ForeignConfig, notes: list[str]) -> dict[str, Any]:
    sde = config.choice("algorithm_type", "dpmsolver++", {"dpmsolver++": False, "sde-dpmsolver++": True})
    order = config.integer("solver_order", 2, 1, 2 if sde else 3)
    if order == 2:
        config.choice("solver_type", "midpoint", ("midpoint",))
    config.get("solver_type", None)
    for option in (*_SIGMAS, "use_dynamic_shifting"):
        config.choice(option, False, (False,))
    config.choice("lambda_min_clipped", None, {None: None, "-Infinity": None, float("-inf"): None})
    for option in ("euler_at_final", "lower_order_final", "flow_shift", "time_shift_type"):
        config.get(option, None)
    if order == 3:
        notes.append("solver_order 3: the term of second order is half as large in diffusers, so samples differ")
    if order == 1:
        return {"kind": "ancestral", "variance": 0.0} if sde else {"kind": "ddim", "eta": 0.0}
    return {"kind": "dpmpp-2m-sde" if sde else f"dpmpp-{order}m"}


def _unipc(config: ForeignConfig, notes: list[str]) -> dict[str, Any]:
    order = config.integer("solver_order", 2, 1, 3)
    config.choice("solver_type", "bh2", ("bh2",))
    config.choice("predict_x0", True, (True,))
    if config.get("disable_corrector", []) != []:
        raise config.refuse("disable_corrector", "[]")
    for option in ("solver_p", "sigma_min", "sigma_max", "shift_terminal"):
        config.choice(option, None, (None,))
    for option in (*_SIGMAS, "use_dynamic_shifting"):
        config.choice(option, False, (False,))
    for option in ("lower_order_final", "flow_shift", "time_shift_type"):
        config.get(option, None)
    if order == 3:
        notes.append("solver_order 3: diffusers takes order 2 in the last step but one")
    return {"kind": "unipc", "order": order}


def _grid(config: ForeignConfig, name: str, notes: list[str]) -> dict[str, Any]:
    """The time grid of ``timestep_spacing``."""
    multistep = name in _MULTISTEP
    spacing = config.choice("timestep_spacing", "linspace" if multistep else "leading", SPACINGS)
    offset = config.integer("steps_offset", 0, 0, MAX_STEPS)
    if multistep:
        end = config.choice("final_sigmas_type", "zero", {"zero": 0, "sigma_min": 1})
    else:
        end = 0 if name != "DDIMScheduler" or config.flag("set_alpha_to_one", True) else 1
    if name == "DDIMScheduler" and spacing == "linspace":
        notes.append("timestep_spacing linspace: diffusers' DDIM steps by T // steps, not to the next of these times")
    grid: dict[str, Any] = {"kind": spacing, "end": end}
    if spacing == "leading":
        grid["offset"] = offset
    if spacing != "trailing" and multistep:
        grid["drop"] = 1
    return grid


SPACINGS = ("linspace", "leading", "trailing")


def _clipping(config: ForeignConfig, name: str, notes: list[str]) -> dict[str, Any]:
    """The keys ``clip`` and ``threshold``."""
    quantile, most = config.number("dynamic_thresholding_ratio", 0.995), config.number("sample_max_value", 1.0)
    clip = name not in _MULTISTEP and config.flag("clip_sample", True)
    limit = config.number("clip_sample_range", 1.0)
    if config.flag("thresholding", False):
        if most <= 1:
            return {"clip": True}
        notes.append(f"thresholding: diffusers limits the threshold to sample_max_value = {most:g}, fromnoise does not")
        return {"clip": False, "threshold": quantile}
    if clip and limit != 1:
        raise config.refuse("clip_sample_range", "1")
    return {"clip": clip}
