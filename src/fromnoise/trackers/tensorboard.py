"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.registry import register
from fromnoise.trackers.base import AccelerateRun, TrackedRun, Tracker, plain


@register("tracker", "tensorboard")
@dataclass(frozen=True)
class TensorBoard(Tracker):
    """TensorBoard: event files in the folder ``tensorboard`` of the run directory.

    ``tensorboard --logdir runs`` shows all runs. The files of an interrupted run are continued: TensorBoard drops what
    was recorded after the step at which the run resumes.
    """

    package = "tensorboard"

    def open(self, folder: Path, recipe: Mapping[str, Any], step: int) -> TrackedRun:
        """Open a writer of event files."""
        from accelerate.tracking import TensorBoardTracker

        tracker = TensorBoardTracker("tensorboard", logging_dir=folder, purge_step=step + 1 if step else None)
        tracker.start()
        if step == 0:
            # store_init_configuration would write hyperparameters as a second run
            text = "\n".join(f"    {key} = {value}" for key, value in plain(recipe).items())
            tracker.log({"recipe": text}, step=0)
        return _Run(tracker)


class _Run(AccelerateRun):
    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        self._tracker.log_images({name: image[None]}, step=step, dataformats="NHWC")
        self._tracker.writer.flush()
