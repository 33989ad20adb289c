"""A run in a tracker: losses, learning rate, speed, held-out loss by t, distances of samples, and previews."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fromnoise import registry
from fromnoise.config import Recipe, flat
from fromnoise.trackers import TrackedRun, Tracker
from fromnoise.training.progress import StepReport
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import first_line


def tracker_of(recipe: Recipe) -> Tracker | None:
    """The tracker that a recipe names; None if it names none.

    Raises:
        UserError: its package is not installed.
    """
    config = recipe.train.tracker
    if config is None:
        return None
    tracker = registry.build("tracker", config.kind, config.options())
    if not tracker.installed():
        raise UserError(
            f"train.tracker {config.kind} needs the package {tracker.package}: pip install 'fromnoise[trackers]'"
        )
    return tracker


class Tracking:
    """Passes the reports of a run to its tracker; without a tracker it does nothing.

    A tracker that fails while the run trains is given up, and the run continues.
    """

    def __init__(self, recipe: Recipe | None, folder: Path, step: int, log: Callable[[str], None]) -> None:
        """Open the run in the tracker.

        Args:
            recipe: names the tracker; None in a process that does not write.
            folder: the run directory.
            step: optimizer steps done.
            log: receives messages.

        Raises:
            UserError: the tracker is not installed or cannot be opened.
        """
        self._log = log
        self._run: TrackedRun | None = None
        tracker = tracker_of(recipe) if recipe is not None else None
        if recipe is None or tracker is None:
            return
        self._name = registry.name_of("tracker", tracker)
        try:
            self._run = tracker.open(folder.resolve(), flat(recipe), step)
        except Exception as e:  # whatever the tracker's package raises: no login, a full disk, a network
            raise UserError(
                f"train.tracker {self._name} cannot be opened: {first_line(e)}; train without it, or choose another"
            ) from e

    def report(self, report: StepReport, evaluation: Mapping[str, Any] | None = None) -> None:
        """Record a logged report and the result of a self-evaluation."""
        values = dict(measurements(report, evaluation or {}))
        self._record(lambda run: run.log(values, report.step))

    def preview(self, image: Image.Image, step: int) -> None:
        """Record the samples of a step."""
        self._record(lambda run: run.log_image("samples", np.asarray(image.convert("RGB")), step))

    def close(self) -> None:
        """Write what is left."""
        self._record(lambda run: run.close())
        self._run = None

    def _record(self, action: Callable[[TrackedRun], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as e:
            self._run = None
            self._log(f"train.tracker {self._name} failed: {first_line(e)}; training continues without it")


def measurements(report: StepReport, evaluation: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The finite numbers of a report by name.

    ``train/`` loss, lr, grad_norm, images, images_per_second, memory_mb, dropped_steps; ``held_out/`` loss, loss_raw,
    and loss_t0.0 to loss_t0.9, each the mean over [t, t + 0.1); ``evaluation/`` frechet, kernel and their errors.
    """
    values: dict[str, Any] = {
        "train/loss": report.loss,
        "train/lr": report.lr,
        "train/grad_norm": report.grad_norm,
        "train/images": report.images,
        "train/dropped_steps": report.dropped_steps,
        "train/images_per_second": report.timing.get("images_per_second"),
        "train/memory_mb": report.timing.get("memory_mb"),
        "held_out/loss": report.held_out_loss,
        "held_out/loss_raw": report.held_out_loss_raw,
    }
    bins = report.loss_by_t or []
    values |= {f"held_out/loss_t{i / len(bins):.1f}": value for i, value in enumerate(bins)}
    for name in ("frechet", "kernel"):
        estimate = evaluation.get(name, {})
        values |= {f"evaluation/{name}": estimate.get("value"), f"evaluation/{name}_error": estimate.get("error")}
    yield from ((name, value) for name, value in values.items() if value is not None and math.isfinite(value))
