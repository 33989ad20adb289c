"""Plots of what was measured, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fromnoise.disk import write_atomic


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
    buffer = io.BytesIO()
    made.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())


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
