"""Trackers, registered by name: programs that show a run while it trains; a new one is a new module of this package."""

from fromnoise import registry
from fromnoise.trackers.base import TrackedRun, Tracker

__all__ = ["TrackedRun", "Tracker"]

registry.import_submodules(__name__, __path__)
