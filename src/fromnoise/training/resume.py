"""Resumption: the newest state of a run directory, checked against this run and this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator

from fromnoise import checkpoint
from fromnoise.config import Recipe
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import AutoencoderModel
from fromnoise.networks import kernels
from fromnoise.run_dir import RunDir, fixed_difference
from fromnoise.training.distributed import check_same_step
from fromnoise.training.ema_snapshots import drop_later
from fromnoise.training.latents import cache_latents, fit_latent_space
from fromnoise.training.loop import TrainingLoop
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import first_line

Log = Callable[[str], None]


def resume(loop: TrainingLoop[Any], run_dir: RunDir, log: Log, autoencoder: AutoencoderModel | None = None) -> None:
    """Load the newest state of the run directory, or fit the pseudo-labels or the latent space of a new run.

    Args:
        loop: new.
        run_dir: of the run.
        log: receives messages.
        autoencoder: for the latent space of a new run.

    Raises:
        UserError: the state is of another recipe or of other images, or the processes read different states.
    """
    if loop.layout.sharded:  # all processes read it together
        check_same_step(loop.accelerator, loop.compute.device, run_dir.newest_step)
    state = run_dir.load_state(read=loop.read_state)
    if state is not None:
        tensors, header = state
        check_state(header, run_dir, loop.model.recipe, loop.model.dataset_info, log)
        try:
            loop.resume(tensors, header)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # the digest says nothing about the values
            raise misfit(run_dir, error) from None
        log(f"resuming from step {loop.progress.step:,}")
        log_arithmetic(header, loop, log)
    else:
        loop.fit_pseudo_labels()
        if autoencoder is not None:
            fit_latent_space(loop, autoencoder)
    if loop.budget_used < 1:
        cache_latents(loop, log)
    if loop.accelerator.is_main_process:
        run_dir.truncate_reports(loop.progress.step)
        drop_later(run_dir.path, loop.progress.step)
    check_same_step(loop.accelerator, loop.compute.device, loop.progress.step)


def misfit(run_dir: RunDir, error: Exception) -> UserError:
    """The exception for a state whose content does not fit the run."""
    reason = first_line(error)
    return UserError(f"the newest state in {run_dir.states} does not fit this run ({reason}): choose another --out")


def check_state(header: dict[str, Any], run_dir: RunDir, recipe: Recipe, now: DatasetInfo, log: Log) -> None:
    """Check that a state was written by a run of this recipe on these images.

    Args:
        header: of the state.
        run_dir: for messages.
        recipe: of this run.
        now: description of the images of this run.
        log: receives a line if the images have changed, but have the same shape and labels.

    Raises:
        UserError: it was not.
    """
    before, saved = checkpoint.parse_header(header, run_dir.states)
    for name, old, new in (("shape", saved.shape, now.shape), ("labels", saved.class_names, now.class_names)):
        if old != new:
            raise UserError(f"{run_dir.path} was trained on images of {name} {old}, not {new}: choose another --out")
    check_progress(header.get("progress"), run_dir)
    changed = fixed_difference(before, recipe)
    if changed:
        raise UserError(f"the states in {run_dir.states} have another recipe: {changed[0]}; choose another --out")
    if saved.fingerprint != now.fingerprint:
        log("the data have changed since this run was started; continuing with the new data")


def check_progress(progress: object, run_dir: RunDir) -> None:
    """Check that the counters of a state are finite numbers that are not negative.

    Raises:
        UserError: they are not.
    """
    values = progress.values() if isinstance(progress, dict) else ["missing"]
    for value in values:
        if not isinstance(value, int | float) or not 0 <= value < 2**63:
            raise misfit(run_dir, ValueError(f"a counter is {str(value)[:40]}"))


def arithmetic(compute: ComputeConfig, accelerator: Accelerator, sharded: bool = False) -> dict[str, str]:
    """What the last bits of the weights depend on besides the recipe, for the header of a state."""
    defines = ("BF16",) if compute.dtype == torch.bfloat16 else ()
    return {
        "device": compute.device.type,
        "precision": str(compute.dtype).removeprefix("torch."),
        "processes": str(accelerator.num_processes),
        "sharding": "full" if sharded else "none",
        "torch": torch.__version__,
        "normalization": kernels.identity("group_norm", *defines) if compute.device.type == "cpu" else "torch",
    }


def log_arithmetic(header: dict[str, Any], loop: TrainingLoop[Any], log: Log) -> None:
    """Say what computes differently from the run that wrote a state."""
    now = arithmetic(loop.compute, loop.accelerator, loop.layout.sharded)
    changes = describe_changes(header.get("arithmetic"), now)
    if changes is not None:
        log(changes)


def describe_changes(before: object, now: dict[str, str]) -> str | None:
    """What differs between two results of ``arithmetic``, the first read from a header; None if nothing does."""
    if not isinstance(before, dict):
        return None
    changed = [f"{name} was {before[name]} and is {v}" for name, v in now.items() if before.get(name, v) != v]
    if not changed:
        return None
    return (
        f"{', '.join(changed)}: from here on the weights are those of the uninterrupted run to the accuracy of the "
        "arithmetic, not bit for bit"
    )
