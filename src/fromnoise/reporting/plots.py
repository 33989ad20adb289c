"""Plots of what was measured, as PNG files or as pictures for a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fromnoise.utils.files import write_atomic

_MARKS = "osD^"


def figure(columns: int = 1, width: float = 5, height: float = 3.6) -> tuple[Any, list[Any]]:
    """A figure that needs no display, and its axes side by side, each so many inches wide and high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width * columns, height), dpi=100, layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(1, columns, squeeze=False)[0].tolist()
    for each in axes:
        each.grid(alpha=0.3)
    return made, axes


def save(made: Any, path: Path) -> None:
    """Write a figure.

    Raises:
        UserError: as ``disk.write_atomic``.
    """
    write_atomic(path, _png(made))


def picture(made: Any) -> Image.Image:
    """A figure as it looks."""
    return Image.open(io.BytesIO(_png(made))).convert("RGB")


def _png(made: Any) -> bytes:
    buffer = io.BytesIO()
    made.savefig(buffer, format="png")
    return buffer.getvalue()


def bits_plot(pieces: dict[str, Sequence[tuple[int, int, float]]], path: Path) -> None:
    """Bits a dimension of each step, and how they add up from the noise on.

    Args:
        pieces: by name, the profile as of ``bits.BoundBits.by_step``.
        path: of the PNG.
    """
    made, (each, summed) = figure(2)
    for name, profile in pieces.items():
        k = [(low * high) ** 0.5 for low, high, _ in profile]
        each.plot(k, [max(bits, 1e-12) for *_, bits in profile], marker="o", markersize=3, label=name)
        left, total = [], 0.0
        for low, high, bits in reversed(profile):
            total += bits * (high - low + 1)
            left.append((low, total))
        summed.plot(*zip(*left, strict=True), marker="o", markersize=3, label=name)
    each.set(xlabel="step k", ylabel="bits/dim of a step", xscale="log", yscale="log", title="the bound by step")
    summed.set(xlabel="step k", ylabel="bits/dim from T down to k", xscale="log", title="what is told by step k")
    for axes in (each, summed):
        axes.invert_xaxis()
        axes.legend()
    save(made, path)


def rate_plot(rates: Sequence[float], distortions: Sequence[float], steps: Sequence[int], path: Path) -> None:
    """Distortion against rate, and both against the reverse steps (Ho et al. 2020, fig. 5).

    Args:
        rates: bits a dimension received.
        distortions: root mean square errors on 0-255.
        steps: reverse steps taken, T - k + 1.
        path: of the PNG.
    """
    made, (by_rate, by_step) = figure(2)
    by_rate.plot(rates, distortions, marker=".", markersize=3)
    by_rate.set(xlabel="rate, bits/dim", ylabel="distortion, RMSE (0-255)", title="rate and distortion")
    by_step.plot(steps, distortions, color="tab:orange")
    by_step.set(xlabel="reverse steps", ylabel="distortion, RMSE (0-255)", title="over the reverse steps")
    other = by_step.twinx()
    other.plot(steps, rates)
    other.set_ylabel("rate, bits/dim")
    save(made, path)


@dataclass(frozen=True)
class Point:
    """A subject on the plot of quality against cost."""

    name: str
    cost: float
    value: float
    error: float


def quality_plot(points: Sequence[Point], title: str, floor: float | None) -> Image.Image:
    """Distance over evaluations, both logarithmic, with error bars and the floor.

    Args:
        points: one a subject.
        title: of the distance.
        floor: of real images; not drawn if it is not above 0.
    """
    made, (axes,) = figure(width=9, height=4.5)
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
    return picture(made)


def shares_plot(kind: str, rows: Mapping[str, Sequence[float]]) -> Image.Image:
    """Bars of how often each class or cluster comes.

    Args:
        kind: what they are.
        rows: shares by name of the subject.
    """
    made, (axes,) = figure(width=10, height=3)
    width = 0.8 / len(rows)
    for i, (name, values) in enumerate(rows.items()):
        places = [x + (i - (len(rows) - 1) / 2) * width for x in range(len(values))]
        axes.bar(places, values, width, label=name, color="0.6" if i == 0 else f"C{(i - 1) % 10}")
    axes.set(xlabel=kind, ylabel="share")
    axes.legend(fontsize=8)
    return picture(made)
