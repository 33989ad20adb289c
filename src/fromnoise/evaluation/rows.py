"""The numbers of an evaluation as rows: each with its key, its title, and the same number of held-out real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.measurement import Evaluation
from fromnoise.evaluation.memorization import CodeLengths
from fromnoise.evaluation.metrics import all_metrics

METRICS, COPIES, CODE_LENGTHS = "metrics", "copies", "code lengths"
"""Groups of rows."""


@dataclass(frozen=True)
class MetricRow:
    """A number.

    Attributes:
        group: table to which it belongs.
        key: name in JSON.
        title: column header in tables.
        samples: estimate for the samples.
        real_vs_real: the same for held-out real images; None if it is unknown at this n.
        better: "lower" or "higher"; "" if values near to the real one are better.
        features: feature space in which it was measured.
        resampled: what is resampled: the error is the standard deviation over such draws.
    """

    group: str
    key: str
    title: str
    samples: Estimate
    real_vs_real: Estimate | None
    better: str
    features: str
    resampled: str = "samples"

    def json(self) -> dict[str, Any]:
        """Value, error, n and features of the samples; value, error and n of the real images as ``real_vs_real``."""
        plain: dict[str, Any] = dict(self.samples.json())
        if self.real_vs_real is not None:
            real = self.real_vs_real.json()
            plain |= {"real_vs_real": real["value"], "real_vs_real_error": real["error"], "real_vs_real_n": real["n"]}
        return plain | {"features": self.features, "error_over": self.resampled}


def metric_rows(
    evaluation: Evaluation, real_vs_real: Evaluation, features: str, lengths: CodeLengths | None = None
) -> list[MetricRow]:
    """All numbers of a source.

    Args:
        evaluation: of the samples.
        real_vs_real: of held-out real images.
        features: name of the feature space.
        lengths: code lengths of its model, if they were measured.
    """
    rows = []
    for metric in all_metrics():
        if (samples := evaluation.metrics.get(metric.key)) is not None:
            real = real_vs_real.metrics.get(metric.key)
            real = metric.at_sample_size(real, evaluation.stats.n) if real is not None else None
            title = metric.title_for(features)
            row = MetricRow(METRICS, metric.key, title, samples, real, metric.better, features, metric.resampled)
            rows.append(row)
    for space, nearest in evaluation.nearest.items():
        real, key = real_vs_real.nearest[space], space.replace(" ", "_")
        rows += [
            MetricRow(COPIES, f"copies_{key}", f"near copies by {space}", nearest.copy_rate, real.copy_rate, "", space),
            MetricRow(
                COPIES,
                f"nearest_{key}",
                f"distance by {space}",
                nearest.mean_distance,
                real.mean_distance,
                "",
                space,
            ),
        ]
    duplicates = evaluation.near_duplicates.copy_rate, real_vs_real.near_duplicates.copy_rate
    rows.append(MetricRow(COPIES, "near_duplicates", "near duplicates", *duplicates, "", "pixels"))
    if lengths is not None:
        rows += [
            MetricRow(CODE_LENGTHS, key, title, estimate, None, better, "pixels", "images")
            for key, title, estimate, better in (
                ("bits_held_out", "bits/dim of held-out images", lengths.held_out, "lower"),
                ("bits_training", "bits/dim of training images", lengths.training, ""),
                ("bits_gap", "held-out minus training, adjusted for complexity", lengths.gap, ""),
            )
        ]
    return rows
