"""Plots of training, likelihood and evaluation, as PNG files or as images for a document."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fromnoise.utils.files import write_atomic

_MARKERS = "osD^"


def figure(columns: int = 1, width: float = 5, height: float = 3.6, rows: int = 1) -> tuple[Any, list[Any]]:
    """A matplotlib figure without a display, and its axes row by row; width and height of each axes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width * columns, height * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(rows, columns, squeeze=False).flatten().tolist()
    for each in axes:
        each.grid(alpha=0.3)
    return fig, axes


def save(fig: Any, path: Path) -> None:
    """Write a figure as PNG.

    Raises:
        UserError: as ``files.write_atomic``.
    """
    write_atomic(path, _png(fig))


def to_image(fig: Any) -> Image.Image:
    """A figure as an image."""
    return Image.open(io.BytesIO(_png(fig))).convert("RGB")


def _png(fig: Any) -> bytes:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    return buffer.getvalue()


# ---- training


def loss_plot(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """Training and held-out loss over the steps, and held-out loss over t.

    Args:
        reports: lines of reports.jsonl.
        path: of the PNG.

    Raises:
        UserError: as ``save``.
    """
    fig, (over_steps, over_t) = figure(2)
    styles = {
        "loss": ("training", "0.75"),
        "held_out_loss_raw": ("held out, raw weights", "tab:orange"),
        "held_out_loss": ("held out, EMA weights", "tab:blue"),
    }
    for key, (name, colour) in styles.items():
        points = [(r["step"], r[key]) for r in reports if (r.get(key) or 0) > 0]  # the axis is logarithmic
        if points:
            marker = "o" if key != "loss" else ""
            over_steps.plot(*zip(*points, strict=True), label=name, color=colour, marker=marker, markersize=3)
    over_steps.set(xlabel="step", ylabel="loss", yscale="log", title="loss")
    if over_steps.lines:
        over_steps.legend()
    measured = [r for r in reports if r.get("loss_by_t")]
    if measured:
        chosen = sorted({0, len(measured) // 4, len(measured) - 1})
        for rank, i in enumerate(chosen):
            bins = [v or math.nan for v in measured[i]["loss_by_t"]]
            midpoints = [(b + 0.5) / len(bins) for b in range(len(bins))]
            shade = str(0.75 - 0.3 * rank) if i != chosen[-1] else "tab:blue"
            over_t.plot(midpoints, bins, marker="o", markersize=3, color=shade, label=f"step {measured[i]['step']:,}")
        over_t.legend()
    over_t.set(xlabel="t (0 clean, 1 noise)", ylabel="loss", yscale="log", title="held-out loss by noise level")
    save(fig, path)


def ema_plot(rows: Sequence[tuple[float, float, float]], kept: float, path: Path) -> None:
    """Kernel distance by the width of the average.

    Args:
        rows: relative width, distance and its standard error.
        kept: distance with the average of model.safetensors, a line.
        path: of the PNG.

    Raises:
        UserError: as ``save``.
    """
    fig, (axis,) = figure()
    widths, values, errors = zip(*sorted(rows), strict=True)
    axis.errorbar(widths, [1000 * v for v in values], [1000 * e for e in errors], marker="o", markersize=3, capsize=2)
    axis.axhline(1000 * kept, color="0.5", linestyle="--", label="average kept while training")
    axis.set(xlabel="relative width of the average", ylabel="kernel distance x 1000", xscale="log")
    axis.set_xticks(widths, [f"{w:g}" for w in widths], rotation=45)
    axis.minorticks_off()
    axis.legend()
    save(fig, path)


# ---- likelihood


def bound_terms_plot(profiles: Mapping[str, Sequence[tuple[int, int, float]]], path: Path) -> None:
    """Terms of the variational bound by step, and their sum from T on.

    Args:
        profiles: by name of the data, as ``BoundResult.by_step``.
        path: of the PNG.

    Raises:
        UserError: as ``save``.
    """
    fig, (terms, sums) = figure(2)
    for name, profile in profiles.items():
        k = [(low * high) ** 0.5 for low, high, _ in profile]
        terms.plot(k, [max(bits, 1e-12) for *_, bits in profile], marker="o", markersize=3, label=name)
        points, total = [], 0.0
        for low, high, bits in reversed(profile):
            total += bits * (high - low + 1)
            points.append((low, total))
        sums.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    terms.set(xlabel="step k", ylabel="bits/dim per step", xscale="log", yscale="log", title="terms of the bound")
    sums.set(xlabel="step k", ylabel="bits/dim from T to k", xscale="log", title="sum of the terms from T to k")
    for axes in (terms, sums):
        axes.invert_xaxis()
        axes.legend()
    save(fig, path)


def rate_distortion_plot(
    rates: Sequence[float], distortions: Sequence[float], steps: Sequence[int], path: Path
) -> None:
    """Distortion against rate, and both against the reverse steps (Ho et al. 2020, figure 5).

    Args:
        rates: bits/dim received.
        distortions: root mean square errors on 0-255.
        steps: number of reverse steps, T - k + 1.
        path: of the PNG.

    Raises:
        UserError: as ``save``.
    """
    fig, (by_rate, by_step) = figure(2)
    by_rate.plot(rates, distortions, marker=".", markersize=3)
    by_rate.set(xlabel="rate, bits/dim", ylabel="distortion, RMSE (0-255)", title="rate and distortion")
    by_step.plot(steps, distortions, color="tab:orange")
    by_step.set(xlabel="reverse steps", ylabel="distortion, RMSE (0-255)", title="over the reverse steps")
    other = by_step.twinx()
    other.plot(steps, rates)
    other.set_ylabel("rate, bits/dim")
    save(fig, path)


# ---- evaluation


@dataclass(frozen=True)
class MetricPoint:
    """A metric of a source, with its standard error, and the network evaluations per image of the source."""

    name: str
    nfe: float
    value: float
    error: float


@dataclass(frozen=True)
class MetricPanel:
    """A metric of several sources; ``real`` is its value for held-out real images, if known."""

    title: str
    points: Sequence[MetricPoint]
    real: float | None


def metrics_vs_nfe_plot(panels: Sequence[MetricPanel]) -> Image.Image:
    """Metrics against network evaluations, a panel per metric, with error bars.

    An axis is logarithmic if its values are positive and span a factor of three; real images are a dashed line.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = figure(columns, width=4.5, height=3.4, rows=rows)
    for ax, panel in zip(axes, panels, strict=False):
        values = [p.value for p in panel.points] + ([panel.real] if panel.real is not None else [])
        logarithmic = min(values) > 0 and max(values) > 3 * min(values)
        for i, p in enumerate(panel.points):
            style = {"fmt": _MARKERS[i // 10 % 4], "color": f"C{i % 10}"}
            ax.errorbar(p.nfe, p.value, p.error, capsize=3, label=p.name, **style)
        if panel.real is not None:
            ax.axhline(panel.real, color="0.5", linestyle="--", label="held-out real images")
        ax.set(xscale="log", xlabel="NFE", title=panel.title)
        ticks = sorted({p.nfe for p in panel.points})
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
        ax.set_xticks([], minor=True)
        if logarithmic:
            ax.set_yscale("log")
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    fig.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    return to_image(fig)


def class_shares_plot(kind: str, shares: Mapping[str, Sequence[float]]) -> Image.Image:
    """Bars of the share of each class or cluster.

    Args:
        kind: class or cluster.
        shares: by name of the source, the real images first.
    """
    fig, (axes,) = figure(width=10, height=3)
    width = 0.8 / len(shares)
    for i, (name, values) in enumerate(shares.items()):
        positions = [x + (i - (len(shares) - 1) / 2) * width for x in range(len(values))]
        axes.bar(positions, values, width, label=name, color="0.6" if i == 0 else f"C{(i - 1) % 10}")
    axes.set(xlabel=kind, ylabel="share")
    axes.legend(fontsize=8)
    return to_image(fig)
