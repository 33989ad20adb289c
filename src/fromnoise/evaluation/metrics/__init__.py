"""Metrics that compare samples with real images.

Every module of this package is imported, so a new file is a new metric; ``metric`` explains how to write one.
"""

from __future__ import annotations

from typing import cast

from fromnoise import registry
from fromnoise.evaluation.metrics.metric import Metric, SampleComparison

__all__ = ["Metric", "SampleComparison", "all_metrics"]

registry.import_submodules(__name__, __path__)


def all_metrics() -> list[Metric]:
    """Every registered metric: those of which lower is better first, else in the order of registration."""
    metrics = [cast("Metric", registry.build("metric", name)) for name in registry.names("metric")]
    return sorted(metrics, key=lambda metric: metric.better != "lower")
