"""Tables of an evaluation, one row or one column per source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fromnoise.evaluation.estimate import Estimate, ExtrapolatedEstimate
from fromnoise.evaluation.findings import Finding
from fromnoise.evaluation.measurement import Evaluation, Measurement
from fromnoise.evaluation.memorization import CodeLengths
from fromnoise.evaluation.rows import CODE_LENGTHS, COPIES, METRICS, MetricRow, metric_rows
from fromnoise.evaluation.sample_checks import check_code_lengths, check_samples
from fromnoise.evaluation.sources import SamplingCost
from fromnoise.reporting.documents import Table
from fromnoise.reporting.formatting import format_duration, format_si


@dataclass(frozen=True)
class SourceReport:
    """Everything that is reported of one source."""

    evaluation: Evaluation
    rows: list[MetricRow]
    findings: list[Finding]
    real_name: str = "held-out real images"

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.evaluation.name

    def row(self, key: str) -> MetricRow | None:
        """The row with this key, if it was measured."""
        return next((row for row in self.rows if row.key == key), None)

    def group(self, group: str) -> list[MetricRow]:
        """The rows of a group."""
        return [row for row in self.rows if row.group == group]


def source_reports(
    measurement: Measurement, code_lengths: Mapping[str, CodeLengths] | None = None
) -> list[SourceReport]:
    """Rows and findings of each source.

    Args:
        measurement: of all sources.
        code_lengths: by the name of the source, where they were measured.
    """
    out = []
    for evaluation, real in zip(measurement.evaluations, measurement.real_vs_real, strict=True):
        lengths = (code_lengths or {}).get(evaluation.name)
        findings = [*check_samples(evaluation, real), *(check_code_lengths(lengths) if lengths else ())]
        rows = metric_rows(evaluation, real, measurement.features, lengths)
        kind = "stratified held-out real images" if real.stats.strata is not None else "held-out real images"
        out.append(SourceReport(evaluation, rows, findings, kind))
    return out


def _cell(estimate: Estimate | None) -> str:
    return "-" if estimate is None else str(estimate)


def metrics_table(reports: Sequence[SourceReport]) -> Table:
    """A row per source, then held-out real images at each sample size; a column per registered metric."""
    columns = reports[0].group(METRICS)
    limits = [c for c in columns if isinstance(c.samples, ExtrapolatedEstimate)]
    rows = []
    for report in reports:
        cells = [row.samples if (row := report.row(c.key)) else None for c in columns]
        values = [row.samples if (row := report.row(c.key)) else None for c in limits]
        extrapolated = [f"{v.limit:.4g}" if isinstance(v, ExtrapolatedEstimate) else "-" for v in values]
        rows.append([report.name, f"{report.evaluation.stats.n:,}", *map(_cell, cells), *extrapolated])
    shown = set()
    for report in sorted(reports, key=lambda r: (r.evaluation.stats.n, r.evaluation.stats.strata is not None)):
        kind, n = report.real_name, report.evaluation.stats.n
        if (kind, n) not in shown:
            shown.add((kind, n))
            cells = [row.real_vs_real if (row := report.row(c.key)) else None for c in columns]
            rows.append([kind, f"{n:,}", *map(_cell, cells), *("-" for _ in limits)])
    return Table(["", "n", *(c.title for c in columns), *(f"{c.title} at n = ∞" for c in limits)], rows)


def copies_table(reports: Sequence[SourceReport]) -> Table:
    """Near copies and near duplicates: a row per source, then held-out real images."""
    columns = reports[0].group(COPIES)
    rows = [[r.name, *(_cell(row.samples) for c in columns if (row := r.row(c.key)))] for r in reports]
    rows.append(["held-out real images", *(_cell(c.real_vs_real) for c in columns)])
    return Table(["", *(c.title for c in columns)], rows)


def code_lengths_table(reports: Sequence[SourceReport]) -> Table | None:
    """A row per source with measured code lengths; None if there is none."""
    known = [(r.name, rows) for r in reports if (rows := r.group(CODE_LENGTHS))]
    if not known:
        return None
    head = ["", "n", *(row.title for row in known[0][1])]
    return Table(head, [[name, f"{rows[-1].samples.n:,}", *(str(r.samples) for r in rows)] for name, rows in known])


def shares_table(kind: str, reports: Sequence[SourceReport]) -> Table:
    """Shares of classes or clusters: a row per group, a column per source."""

    def cell(share: float, status: str) -> str:
        return f"{share:.1%}" + (f" ({status})" if status else "")

    rows = [
        [
            share.name,
            f"{share.real:.1%}",
            *(cell(r.evaluation.shares[i].samples, r.evaluation.shares[i].status) for r in reports),
        ]
        for i, share in enumerate(reports[0].evaluation.shares)
    ]
    return Table([kind, "real", *(r.name for r in reports)], rows)


def colour_table(reports: Sequence[SourceReport]) -> Table:
    """Colour statistics: a row per statistic, a column per source."""
    rows = []
    for i, first in enumerate(reports[0].evaluation.colour_shifts):
        shifts = [r.evaluation.colour_shifts[i] for r in reports]
        cells = [f"{s.samples:.1f} ± {s.error:.1f}" + (f" ({s.direction})" if s.direction else "") for s in shifts]
        rows.append([first.name, f"{first.real:.1f}", f"{first.real_std:.1f}", *cells])
    return Table(["", "real", "std between real images", *(r.name for r in reports)], rows)


def cost_table(reports: Sequence[SourceReport]) -> Table | None:
    """A row per source with a known cost; None if there is none."""
    known = [(r.name, cost) for r in reports if (cost := r.evaluation.stats.cost)]
    if not known:
        return None
    head = ["", "NFE", "seconds per image", "FLOPs per image", "parameters", "training", "training images seen"]
    return Table(head, [[name, *_cost_cells(cost)] for name, cost in known])


def _cost_cells(cost: SamplingCost) -> list[str]:
    return [
        f"{cost.nfe:g}",
        f"{cost.seconds_per_image:.3g}",
        format_si(cost.flops_per_image),
        f"{cost.parameters:,}",
        format_duration(cost.training_seconds),
        f"{cost.training_images:,}" if cost.training_images is not None else "-",
    ]
