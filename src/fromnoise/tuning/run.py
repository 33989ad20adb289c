"""Tune the model of a run, and keep what was learned in its file."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from fromnoise.checkpoint import LoadedModel, load_model, save_tuned
from fromnoise.tuning.learning import BATCH, ITERATIONS, SEED, Tuned, TuningStep, tune
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError
from fromnoise.utils.hub import is_hub
from fromnoise.utils.locks import locked_folder


def tune_run(
    run: str | Path,
    steps: int,
    *,
    teacher: int | None = None,
    guidance: float | None = None,
    iterations: int = ITERATIONS,
    batch: int = BATCH,
    seed: int = SEED,
    device: str | None = None,
    precision: str = "auto",
) -> Generator[TuningStep | Tuned, None, None]:
    """Learn the sampler of a run for a number of steps; the model's file changes at the end, and only if it helps.

    Args:
        run: a run directory or a .safetensors file.
        steps: number of steps.
        teacher: as of ``tune``.
        guidance: as of ``tune``.
        iterations: as of ``tune``.
        batch: as of ``tune``.
        seed: as of ``tune``.
        device: as of ``load``.
        precision: as of ``Pipeline``.

    Returns:
        A generator, as of ``tune``.

    Raises:
        UserError: when called: there is no such run, or as ``tune``; later: another process writes in its folder.
    """
    if is_hub(run):
        raise UserError(f"{run} is on the hub, and tuning changes the file of the model: give a run on this machine")
    loaded = load_model(run)
    compute = select_device(device, precision)
    compute.to_device(loaded.model.denoiser)
    reports = tune(
        loaded.model, compute, steps, teacher=teacher, guidance=guidance, iterations=iterations, batch=batch, seed=seed
    )
    return _keep(loaded, reports)


def _keep(loaded: LoadedModel, reports: Iterator[TuningStep | Tuned]) -> Generator[TuningStep | Tuned, None, None]:
    """The reports; what was learned is written before the last one."""
    with locked_folder(loaded.path.parent):
        for report in reports:
            if isinstance(report, Tuned) and report.steps is not None:
                save_tuned(loaded, report.steps)
            yield report


def last_report(reports: Iterator[TuningStep | Tuned], on_step: Callable[[TuningStep], object]) -> Tuned:
    """Run a tuning to its end.

    Args:
        reports: as of ``tune``.
        on_step: called after each iteration.
    """
    for report in reports:
        if isinstance(report, Tuned):
            return report
        on_step(report)
    raise AssertionError("tuning ends with its result")
