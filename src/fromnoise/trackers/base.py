"""The interface of a tracker."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class TrackedRun(ABC):
    """A run in a tracker, opened by ``Tracker.open``."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers of an optimizer step, by name: ``train/loss``."""

    @abstractmethod
    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Record an image of an optimizer step, uint8 (H, W, 3)."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


class AccelerateRun(TrackedRun):
    """A run in one of accelerate's trackers, which differ in how they take images."""

    def __init__(self, tracker: Any) -> None:
        """Record by a tracker that was started."""
        self._tracker = tracker

    def log(self, values: Mapping[str, float], step: int) -> None:
        """As of ``TrackedRun``."""
        self._tracker.log(dict(values), step=step)

    def close(self) -> None:
        """As of ``TrackedRun``."""
        self._tracker.finish()


class Tracker(ABC):
    """The options of a tracker, and how to open a run in it.

    Subclasses are frozen dataclasses whose fields are the options. They import their package in ``open`` alone.

    Attributes:
        package: name of the module that the tracker needs; the extra ``trackers`` installs it.
    """

    package: ClassVar[str]

    def installed(self) -> bool:
        """Whether the tracker's package can be imported."""
        return importlib.util.find_spec(self.package) is not None

    @abstractmethod
    def open(self, folder: Path, recipe: Mapping[str, Any], step: int) -> TrackedRun:
        """Open a run, or continue it.

        Args:
            folder: the run directory; its name is the name of the run.
            recipe: the values of the recipe by dotted key.
            step: optimizer steps done; what an interrupted run recorded after them is recorded again.
        """


def project_of(project: str | None, folder: Path) -> str:
    """The project of a run: that of the option, otherwise the folder that holds the run directory, such as ``runs``."""
    return project or folder.resolve().parent.name or "fromnoise"


def plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe as trackers store them: numbers and text, lists written out, without what is not set."""
    found = {key: value for key, value in recipe.items() if value is not None}
    return {key: v if isinstance(v, bool | int | float | str) else str(v) for key, v in found.items()}
