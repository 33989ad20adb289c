"""A measurement as a report, as JSON and as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from fromnoise.evaluation.findings import Finding, of_lengths, of_samples
from fromnoise.evaluation.measurement import Evaluation, Measurement
from fromnoise.evaluation.memorization import Lengths
from fromnoise.evaluation.metrics.frechet import Estimate
from fromnoise.evaluation.metrics.nearest import RATIO
from fromnoise.evaluation.rows import MetricRow, numbers
from fromnoise.evaluation.sources import Cost, RealImages
from fromnoise.reporting import image_io, plots
from fromnoise.reporting.documents import Block, Code, Heading, Items, Picture, Table, Text

_DISTANCES = ("frechet", "kernel", "precision", "recall", "density", "coverage", "score")
_SHOWN = 100  # samples shown
_NEIGHBOURS = 8  # samples shown with their nearest training images


@dataclass(frozen=True)
class Environment:
    """What a number is worth nothing without.

    Attributes:
        command: that repeats it.
        against: the data SPEC.
        about: lines on features, machine, version and date.
    """

    command: str
    against: str
    about: tuple[str, ...]


@dataclass(frozen=True)
class EvaluationReport:
    """All that is said of one subject."""

    judged: Evaluation
    numbers: list[MetricRow]
    findings: list[Finding]

    @property
    def name(self) -> str:
        """Of the subject."""
        return self.judged.tally.name

    def number(self, key: str) -> MetricRow | None:
        """One of the numbers, if it was measured."""
        return next((n for n in self.numbers if n.key == key), None)


def verdicts(found: Measurement, lengths: Mapping[str, Lengths] | None = None) -> list[EvaluationReport]:
    """Numbers and findings of each subject.

    Args:
        found: the measurement.
        lengths: code lengths by name of the subject, where they were measured.
    """
    out = []
    for judged, floor in zip(found.judged, found.floors, strict=True):
        told = (lengths or {}).get(judged.tally.name)
        findings = [*of_samples(judged, floor), *(of_lengths(told) if told else ())]
        out.append(EvaluationReport(judged, numbers(judged, floor, found.features, told), findings))
    return out


# ---- plain data


def as_json(found: Measurement, told: Sequence[EvaluationReport], circumstances: Environment) -> dict[str, Any]:
    """All numbers, for other programs."""
    return {
        "command": circumstances.command,
        "against": circumstances.against,
        "about": list(circumstances.about),
        "features": found.features,
        "reference_n": found.reference.n,
        "judged": [
            {
                "name": v.name,
                "n": v.judged.tally.n,
                **{n.key: n.as_json() for n in v.numbers},
                found.kind + "es" if found.kind == "class" else found.kind + "s": [
                    asdict(s) | {"verdict": s.verdict} for s in v.judged.shares
                ],
                "looks": [asdict(s) | {"verdict": s.verdict} for s in v.judged.shifts],
                "cost": asdict(v.judged.tally.cost) if v.judged.tally.cost else None,
                "findings": [asdict(f) for f in v.findings],
            }
            for v in told
        ],
    }


# ---- numbers in words


def show(e: Estimate | None) -> str:
    """Value and error, to two figures of the error."""
    if e is None:
        return "-"
    if not math.isfinite(e.error) or e.error <= 0:
        return f"{e.value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(e.error)))
    return f"{e.value:.{digits}f} ± {e.error:.{digits}f}"


def _big(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def time(seconds: float | None) -> str:
    """A duration in a fitting unit."""
    if seconds is None:
        return "-"
    return (
        f"{seconds / 3600:.1f} h"
        if seconds > 5400
        else f"{seconds / 60:.1f} min"
        if seconds > 90
        else f"{seconds:.3g} s"
    )


# ---- tables


def distances(told: Sequence[EvaluationReport]) -> Table:
    """A row a subject, and the floors below."""
    keys = [k for k in _DISTANCES if told[0].number(k)]
    titles = [n.title for k in keys if (n := told[0].number(k))]
    rows = []
    for v in told:
        cells = [n.found for k in keys if (n := v.number(k))]
        rows.append([v.name, f"{v.judged.tally.n:,}", *map(show, cells), f"{v.judged.frechet.limit:.4g}"])
    for n in sorted({v.judged.tally.n for v in told}):
        v = next(v for v in told if v.judged.tally.n == n)
        cells = [number.floor for k in keys if (number := v.number(k))]
        rows.append(["floor: held-out images", f"{n:,}", *map(show, cells), "-"])
    return Table(["", "n", *titles, f"{titles[0]} at n = ∞"], rows)


def _copies(told: Sequence[EvaluationReport]) -> Table:
    numbers = [n for n in told[0].numbers if n.key.startswith(("copies", "nearest", "twins"))]
    rows = [[v.name, *(show(n.found) for k in numbers if (n := v.number(k.key)))] for v in told]
    rows.append(["held-out images", *(show(n.floor) for n in numbers)])
    return Table(["", *(n.title for n in numbers)], rows)


def _bits(told: Sequence[EvaluationReport]) -> Table | None:
    """A row a subject whose model's code lengths are known."""
    known = [(v.name, found) for v in told if (found := [n for n in v.numbers if n.key.startswith("bits")])]
    if not known:
        return None
    head = ["", "n", *(n.title for n in known[0][1])]
    return Table(head, [[name, f"{ns[-1].found.n:,}", *(show(n.found) for n in ns)] for name, ns in known])


def _shares(found: Measurement, told: Sequence[EvaluationReport]) -> Table:
    rows = [
        [
            share.name,
            f"{share.real:.1%}",
            *(_marked(v.judged.shares[i].found, v.judged.shares[i].verdict) for v in told),
        ]
        for i, share in enumerate(told[0].judged.shares)
    ]
    return Table([found.kind, "real", *(v.name for v in told)], rows)


def _marked(share: float, verdict: str) -> str:
    return f"{share:.1%}" + (f" ({verdict})" if verdict else "")


def _looks(told: Sequence[EvaluationReport]) -> Table:
    rows = []
    for i, look in enumerate(told[0].judged.shifts):
        cells = [v.judged.shifts[i] for v in told]
        marked = [f"{s.found:.1f} ± {s.error:.1f}" + (f" ({s.verdict})" if s.verdict else "") for s in cells]
        rows.append([look.name, f"{look.real:.1f}", f"{look.spread:.1f}", *marked])
    return Table(["", "real", "spread of real", *(v.name for v in told)], rows)


def costs(told: Sequence[EvaluationReport]) -> Table | None:
    """A row a subject whose cost is known."""
    known = [(v.name, c) for v in told if (c := v.judged.tally.cost)]
    if not known:
        return None
    head = ["", "evaluations", "seconds an image", "FLOPs an image", "parameters", "training", "images learned from"]
    return Table(head, [[name, *_cost(c)] for name, c in known])


def _cost(c: Cost) -> list[str]:
    seen = f"{c.training_images:,}" if c.training_images is not None else "-"
    return [
        f"{c.evaluations:g}",
        f"{c.seconds:.3g}",
        _big(c.flops),
        f"{c.parameters:,}",
        time(c.training_seconds),
        seen,
    ]


# ---- the report


def blocks(
    found: Measurement, told: Sequence[EvaluationReport], reference: RealImages, circumstances: Environment
) -> list[Block]:
    """The report.

    Args:
        found: the measurement.
        told: its verdicts.
        reference: the images it was measured against, for pictures.
        circumstances: to print with it.
    """
    out: list[Block] = [
        Heading("Samples against " + circumstances.against, 1),
        Code(circumstances.command),
        Items(circumstances.about),
        Heading("Distances"),
        distances(told),
        Text(
            f"± is one standard error over the samples, not over trainings. Measured on {found.features} features "
            f"against {found.reference.n:,} training images. "
            + ("" if found.features == "inception" else "This is no FID: only Inception's features give one. ")
            + "Compare only at equal n and features; the floor is what as many real images score that no model "
            "learned from. The kernel distance is unbiased at any n, and below zero by chance where nothing differs."
        ),
    ]
    faults = [f"{v.name}: {finding}" for v in told for finding in v.findings]
    out += [Heading("Findings"), Items(faults) if faults else Text("Nothing stands out.")]
    out += [Heading("Pictures"), Picture("real", _grid(found.reference.pictures), "real training images")]
    for i, v in enumerate(told):
        out.append(Picture(f"samples_{i + 1}", _grid(v.judged.tally.pictures), v.name))
    out += [Heading("Copies"), _copies(told)]
    out.append(
        Text(
            f"A copy is a sample whose nearest training image is less than {RATIO:g} times as far as the next ones are "
            "on average; twins are the same among the samples; nearest is the mean distance to the nearest training "
            "image."
        )
    )
    for i, v in enumerate(told):
        caption = f"{v.name}: the samples nearest to a training image for their surroundings"
        out.append(Picture(f"copies_{i + 1}", _neighbours(v.judged, reference), caption))
    table = _bits(told)
    if table is not None:
        out += [table, Text("Bits are by the probability flow: training images that cost clearly less were memorised.")]
    out += [
        Heading("Coverage"),
        Picture("shares", plots.shares_plot(found.kind, _bars(told)), f"share of each {found.kind}"),
    ]
    out += [_shares(found, told), _looks(told)]
    table = costs(told)
    if table is not None:
        out += [Heading("Cost"), table]
    points = [
        plots.Point(v.name, c.evaluations, v.judged.frechet.value, v.judged.frechet.error)
        for v in told
        if (c := v.judged.tally.cost)
    ]
    if len(points) > 1:
        first = told[0].numbers[0]
        floor = first.floor.value if first.floor else None
        picture = plots.quality_plot(points, first.title, floor)
        out.append(Picture("quality", picture, f"{first.title} against the evaluations of the network for one image"))
    return out


def _bars(told: Sequence[EvaluationReport]) -> dict[str, list[float]]:
    real = {"real": [s.real for s in told[0].judged.shares]}
    return real | {v.name: [s.found for s in v.judged.shares] for v in told}


def _grid(images: Tensor) -> Image:
    return image_io.grid(images[:_SHOWN], columns=20)


def _neighbours(judged: Evaluation, reference: RealImages) -> Image:
    """The samples that are most like copies, and beside each its nearest training image."""
    spaces = list(judged.nearest.items())
    chosen = torch.stack([found.ratios.nan_to_num(1.0) for _, found in spaces]).amin(0).argsort()[:_NEIGHBOURS]
    panels = [("sample", judged.tally.pictures[chosen])]
    panels += [(f"by {space}", reference.get(found.indices[chosen, 0])) for space, found in spaces]
    return image_io.side_by_side([(title, image_io.grid(images, columns=1)) for title, images in panels])
