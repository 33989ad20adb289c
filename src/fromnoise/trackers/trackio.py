"""trackio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.registry import register
from fromnoise.trackers.base import AccelerateRun, TrackedRun, Tracker, plain, project_of


@register("tracker", "trackio")
@dataclass(frozen=True)
class Trackio(Tracker):
    """trackio: a local SQLite database, in ``TRACKIO_DIR`` or the cache of Hugging Face.

    ``trackio show`` opens the dashboard.

    Args:
        project: name of the project; left out: the folder that holds the run directory, such as ``runs``
    """

    project: str | None = None

    package = "trackio"

    def open(self, folder: Path, recipe: Mapping[str, Any], step: int) -> TrackedRun:
        """Start a run under the name of the run directory, or continue it."""
        from accelerate.tracking import TrackioTracker

        options = {"name": folder.name, "resume": "allow" if step else "never", "embed": False}
        tracker = TrackioTracker(
            project_of(self.project, folder), **options, auto_log_gpu=False, auto_log_cpu=False, config=plain(recipe)
        )
        tracker.start()
        return _Run(tracker)


class _Run(AccelerateRun):
    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        import trackio

        self._tracker.log({name: trackio.Image(image)}, step=step)
