"""The report of an evaluation: a document with figures, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from fromnoise.evaluation.measurement import Evaluation, Measurement
from fromnoise.evaluation.metrics.nearest import COPY_RATIO
from fromnoise.evaluation.result_tables import (
    SourceReport,
    code_lengths_table,
    colour_table,
    copies_table,
    cost_table,
    metrics_table,
    shares_table,
)
from fromnoise.evaluation.rows import METRICS
from fromnoise.evaluation.sources import RealImages
from fromnoise.reporting import image_io, plots
from fromnoise.reporting.documents import Block, BulletList, Code, Figure, Heading, Table, Text

_GRID_IMAGES = 100
_COPY_CANDIDATES = 8  # samples that are shown with their nearest training images


@dataclass(frozen=True)
class Environment:
    """How an evaluation was made, to repeat it.

    Attributes:
        command: command line.
        against: data SPEC of the real images.
        details: lines on features, versions, date and machine.
    """

    command: str
    against: str
    details: tuple[str, ...]


def as_json(measurement: Measurement, reports: Sequence[SourceReport], environment: Environment) -> dict[str, Any]:
    """All numbers, for programs."""
    return {
        "command": environment.command,
        "against": environment.against,
        "details": list(environment.details),
        "features": measurement.features,
        "reference_n": measurement.reference.n,
        "evaluations": [_source_json(r, measurement.group_kind) for r in reports],
    }


def _source_json(report: SourceReport, group_kind: str) -> dict[str, Any]:
    evaluation = report.evaluation
    return {
        "name": report.name,
        "n": evaluation.stats.n,
        "stratified": evaluation.stats.strata is not None,
        "real_vs_real": report.real_name,
        **{row.key: row.json() for row in report.rows},
        "class_balance": {
            "kind": group_kind,
            "shares": [asdict(share) | {"status": share.status} for share in evaluation.shares],
        },
        "colour": [asdict(shift) | {"direction": shift.direction} for shift in evaluation.colour_shifts],
        "cost": asdict(evaluation.stats.cost) if evaluation.stats.cost else None,
        "findings": [asdict(finding) for finding in report.findings],
    }


# ---- the document

_ERRORS = (
    "± is one standard error: the standard deviation between sets of as many samples of the same model, with the real "
    "images fixed (for the kernel distance the real images are resampled too), not between trainings. "
)
_COMPARE = (
    "Compare values only at equal n and with equal features. The row of held-out real images is the value that as many "
    "real images reach, which no model was trained on; a stratified row holds as many images of each class or cluster "
    "as the stratified samples do. Samples of a conditional model cycle through its classes: they are stratified. The "
    "kernel distance of i.i.d. samples is unbiased at any n, and can be negative by chance for equal distributions."
)
_COPIES = (
    f"A near copy is a sample whose nearest training image is less than {COPY_RATIO:g} times as far away as the next "
    "ones are on average. A near duplicate is the same among the samples. The distance is the mean distance to the "
    "nearest training image. Copies that are blurred, shifted or changed in brightness, and small fractions of copies, "
    "can be missed: no finding is no proof that there are none."
)
_CODE_LENGTHS = (
    "Code lengths by the probability-flow ODE. Training images with clearly shorter codes than held-out images were "
    "memorized. With few images a small gap cannot be detected."
)


def document(
    measurement: Measurement, reports: Sequence[SourceReport], reference: RealImages, environment: Environment
) -> list[Block]:
    """The report as blocks.

    Args:
        measurement: of all sources.
        reports: of the sources.
        reference: the training images, for the figures.
        environment: how the evaluation was made.
    """
    features, reference_stats = measurement.features, measurement.reference
    out: list[Block] = [
        Heading("Samples against " + environment.against, 1),
        Code(environment.command),
        BulletList(environment.details),
        Heading("Metrics"),
        metrics_table(reports),
        Text(
            f"Features: {features}. Reference: {reference_stats.n:,} training images. "
            + ("" if features == "inception" else "The Frechet distance is an FID only on Inception features. ")
            + _ERRORS
            + _COMPARE
        ),
    ]
    findings = [f"{report.name}: {finding}" for report in reports for finding in report.findings]
    out += [Heading("Findings"), BulletList(findings) if findings else Text("No problems found by these checks.")]
    out += [Heading("Samples"), Figure("real", _grid(reference_stats.images), "real training images")]
    for i, report in enumerate(reports, 1):
        out.append(Figure(f"samples_{i}", _grid(report.evaluation.stats.images), report.name))
    out += [Heading("Copies"), copies_table(reports), Text(_COPIES)]
    for i, report in enumerate(reports, 1):
        caption = f"{report.name}: the samples most like copies, and their nearest training images"
        out.append(Figure(f"copies_{i}", _copy_candidates(report.evaluation, reference), caption))
    out += _optional("Code lengths", code_lengths_table(reports), Text(_CODE_LENGTHS))
    kind = measurement.group_kind
    out += [
        Heading("Class balance and colour"),
        Figure("shares", plots.class_shares_plot(kind, _shares(reports)), f"share of each {kind}"),
        shares_table(kind, reports),
        colour_table(reports),
    ]
    out += _optional("Cost", cost_table(reports))
    return out + _metrics_against_nfe(reports)


def _optional(heading: str, table: Table | None, *more: Block) -> list[Block]:
    return [] if table is None else [Heading(heading), table, *more]


def _metrics_against_nfe(reports: Sequence[SourceReport]) -> list[Block]:
    """A panel per metric, if there are several sources with a known cost."""
    known = [(report, cost) for report in reports if (cost := report.evaluation.stats.cost)]
    if len(known) < 2:
        return []
    panels = []
    for column in reports[0].group(METRICS):
        points = [
            plots.MetricPoint(report.name, cost.nfe, row.samples.value, row.samples.error)
            for report, cost in known
            if (row := report.row(column.key))
        ]
        real = column.real_vs_real.value if column.real_vs_real else None
        panels.append(plots.MetricPanel(column.title, points, real))
    caption = "metrics against the number of network evaluations per image"
    return [Figure("metrics_vs_nfe", plots.metrics_vs_nfe_plot(panels), caption)]


def _shares(reports: Sequence[SourceReport]) -> dict[str, list[float]]:
    real = {"real": [s.real for s in reports[0].evaluation.shares]}
    return real | {r.name: [s.samples for s in r.evaluation.shares] for r in reports}


def _grid(images: Tensor) -> Image:
    return image_io.grid(images[:_GRID_IMAGES], columns=20)


def _copy_candidates(evaluation: Evaluation, reference: RealImages) -> Image:
    """The samples with the least distance ratios in any space, each beside its nearest training images."""
    spaces = list(evaluation.nearest.items())
    ratios = torch.stack([nearest.distance_ratios.nan_to_num(1.0) for _, nearest in spaces])
    chosen = ratios.amin(0).argsort()[:_COPY_CANDIDATES]
    panels = [("sample", evaluation.stats.images[chosen])]
    panels += [(f"by {space}", reference.get(nearest.indices[chosen, 0])) for space, nearest in spaces]
    return image_io.side_by_side([(title, image_io.grid(images, columns=1)) for title, images in panels])
