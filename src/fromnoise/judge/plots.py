"""Plots of a judgement, as pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fromnoise import plots

_MARKS = "osD^"


@dataclass(frozen=True)
class Point:
    """A subject on the plot of quality against cost."""

    name: str
    cost: float
    value: float
    error: float


def quality(points: Sequence[Point], title: str, floor: float | None) -> Image.Image:
    """Distance over evaluations, both logarithmic, with error bars and the floor.

    Args:
        points: one a subject.
        title: of the distance.
        floor: of real images; not drawn if it is not above 0.
    """
    figure, (axes,) = plots.figure(width=9, height=4.5)
    for i, p in enumerate(points):
        axes.errorbar(p.cost, p.value, p.error, fmt=_MARKS[i // 10 % 4], capsize=3, color=f"C{i % 10}", label=p.name)
    if floor is not None and floor > 0:
        axes.axhline(floor, color="0.5", linestyle="--", label="held-out images")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xscale="log", xlabel="evaluations of the network for one image", ylabel=title)
    costs = sorted({p.cost for p in points})
    axes.set_xticks(costs, [f"{c:g}" for c in costs], minor=False)
    axes.set_xticks([], minor=True)
    if min(p.value for p in points) > 0:
        axes.set_yscale("log")
    return _picture(figure)


def shares(kind: str, rows: Mapping[str, Sequence[float]]) -> Image.Image:
    """Bars of how often each class or cluster comes.

    Args:
        kind: what they are.
        rows: shares by name of the subject.
    """
    figure, (axes,) = plots.figure(width=10, height=3)
    width = 0.8 / len(rows)
    for i, (name, values) in enumerate(rows.items()):
        places = [x + (i - (len(rows) - 1) / 2) * width for x in range(len(values))]
        axes.bar(places, values, width, label=name, color="0.6" if i == 0 else f"C{(i - 1) % 10}")
    axes.set(xlabel=kind, ylabel="share")
    axes.legend(fontsize=8)
    return _picture(figure)


def _picture(figure: Any) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")
