"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.registry import register
from fromnoise.trackers.base import AccelerateRun, TrackedRun, Tracker, plain, project_of


@register("tracker", "wandb")
@dataclass(frozen=True)
class WandB(Tracker):
    """Weights & Biases: uploads the run to the account of ``wandb login``.

    With ``WANDB_MODE=offline`` nothing is sent: the files in the folder ``wandb`` of the run directory are for
    ``wandb sync``.

    Args:
        project: name of the project; left out: the folder that holds the run directory, such as ``runs``
        entity: user or team that owns the project; left out: the default of the account
    """

    project: str | None = None
    entity: str | None = None

    package = "wandb"

    def open(self, folder: Path, recipe: Mapping[str, Any], step: int) -> TrackedRun:
        """Start a run under the name of the run directory, or continue the run whose id is in ``wandb/run-id``."""
        from accelerate.tracking import WandBTracker

        file = folder / "wandb" / "run-id"
        known = file.read_text(encoding="utf-8").strip() if step and file.is_file() else None
        tracker = WandBTracker(
            project_of(self.project, folder),
            entity=self.entity,
            name=folder.name,
            dir=str(folder),
            id=known,
            resume="allow" if known else None,
            config=plain(recipe),
        )
        tracker.start()
        if known is None:
            file.parent.mkdir(exist_ok=True)
            file.write_text(tracker.run.id + "\n", encoding="utf-8")
        return _Run(tracker)


class _Run(AccelerateRun):
    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        self._tracker.log_images({name: [image]}, step=step)
