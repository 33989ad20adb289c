"""Checks of samples against held-out real images: copies, diversity, class balance, colour, memorization."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fromnoise.config import SamplingConfig
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.findings import SIGNIFICANT, Finding, exceeds
from fromnoise.evaluation.measurement import MIRRORED, Evaluation
from fromnoise.evaluation.memorization import CodeLengths
from fromnoise.evaluation.metrics import all_metrics

_MIN_GAP = 0.02  # of the held-out code length, below which a gap is not reported
_LESS_MEMORIZATION = "train on more images or for fewer steps, or raise network.dropout"


def check_samples(evaluation: Evaluation, held_out: Evaluation) -> Iterator[Finding]:
    """Problems of samples.

    Args:
        evaluation: of the samples.
        held_out: of held-out real images.
    """
    yield from _copies(evaluation, held_out)
    yield from _near_duplicates(evaluation, held_out)
    yield from _class_balance(evaluation)
    yield from _colour(evaluation)
    for metric in all_metrics():
        samples, real = evaluation.metrics.get(metric.key), held_out.metrics.get(metric.key)
        finding = metric.check(samples, real) if samples is not None and real is not None else None
        if finding is not None:
            yield finding


def check_code_lengths(lengths: CodeLengths) -> Iterator[Finding]:
    """Memorization: training images with clearly shorter codes than held-out images."""
    gap, held_out = lengths.gap, lengths.held_out
    if gap.value > max(SIGNIFICANT * gap.error, _MIN_GAP * abs(held_out.value)):
        yield Finding(
            "memorization",
            f"training images need {gap.value:.2f} +- {gap.error:.2f} bits/dim less than held-out images "
            f"({lengths.training.value:.2f} against {held_out.value:.2f})",
            f"the model has memorized training images; {_LESS_MEMORIZATION}",
        )


def _copies(evaluation: Evaluation, held_out: Evaluation) -> Iterator[Finding]:
    """Near copies in the first space that shows them; mirrored copies separately."""
    for space, nearest in evaluation.nearest.items():
        samples, real = nearest.copy_rate, held_out.nearest[space].copy_rate
        if space != MIRRORED and exceeds(samples, real):
            yield Finding(
                "copies",
                f"{samples.value:.1%} of the samples are near copies of training images by {space}, "
                f"against {real.value:.1%} of held-out images",
                f"{_LESS_MEMORIZATION}, or set data.flip if mirrored images are valid",
            )
            break
    mirrored, real = evaluation.nearest[MIRRORED].copy_rate, held_out.nearest[MIRRORED].copy_rate
    # mirroring genuine samples raises the rate of mirrored copies and lowers that of plain ones by as much
    both, real_both = (
        _sum(n["pixels"].copy_rate, n[MIRRORED].copy_rate) for n in (evaluation.nearest, held_out.nearest)
    )
    if exceeds(mirrored, real) and exceeds(both, real_both):
        yield Finding(
            "mirrored_copies",
            f"{mirrored.value:.1%} of the samples are mirrored near copies of training images by pixels, "
            f"against {real.value:.1%} of held-out images",
            _LESS_MEMORIZATION,
        )


def _sum(a: Estimate, b: Estimate) -> Estimate:
    return Estimate(a.value + b.value, math.hypot(a.error, b.error), a.n)


def _near_duplicates(evaluation: Evaluation, held_out: Evaluation) -> Iterator[Finding]:
    samples, real = evaluation.near_duplicates.copy_rate, held_out.near_duplicates.copy_rate
    sampling = evaluation.stats.sampling
    guidance = "lower --guidance, " if sampling is None or sampling.guidance > 1 else ""
    if exceeds(samples, real):
        yield Finding(
            "near_duplicates",
            f"{samples.value:.1%} of the samples have a near duplicate among the other samples, "
            f"against {real.value:.1%} of held-out images",
            f"the samples lack diversity: {guidance}train longer, or train on more images",
        )


def _class_balance(evaluation: Evaluation) -> Iterator[Finding]:
    for status, remedy in (
        ("missing", "look at the samples; train longer, or train with --data.labels true and sample with --label all"),
        ("rare", "train longer, or train with --data.labels true and sample with --label all"),
        ("frequent", "train longer, or take more --steps: few steps favour simple images"),
    ):
        rows = [s for s in evaluation.shares if s.status == status]
        if rows:
            listed = ", ".join(f"{s.name} ({s.samples:.1%}, real {s.real:.1%})" for s in rows[:6])
            more = f" and {len(rows) - 6} more" if len(rows) > 6 else ""
            yield Finding(status, f"{status} among the samples: {listed}{more}", remedy)


def _colour(evaluation: Evaluation) -> Iterator[Finding]:
    for shift in evaluation.colour_shifts:
        if not shift.direction:
            continue
        kind = shift.name.split()[0]
        yield Finding(
            "clipped" if kind == "per" and shift.direction == "high" else "colour",
            f"{shift.name} is {shift.direction}: {shift.samples:.1f}, real {shift.real:.1f} +- {shift.error:.1f}",
            colour_remedy(kind, shift.direction == "high", evaluation.stats.sampling),
        )


def colour_remedy(kind: str, high: bool, sampling: SamplingConfig | None) -> str:
    """What changes a colour statistic.

    Args:
        kind: first word of its name.
        high: whether it is too high, otherwise too low.
        sampling: how the samples were made; None if this is unknown.
    """
    clips = sampling is None or sampling.clip or sampling.threshold is not None
    guided = sampling is None or sampling.guidance > 1
    advice = []
    if not clips and (kind == "mean" or (kind == "per" and high)):
        advice.append("sample with --clip")
    if high and guided and kind != "mean":
        advice.append("lower --guidance")
    if kind == "per" and high:
        thresholded = sampling is not None and sampling.threshold is not None
        advice += (
            [] if thresholded else ["sample with --threshold 0.995, which scales values back in place of clipping"]
        )
        advice.append("train longer")
    elif kind == "per":
        advice.append("take more --steps, since with too few a black or white background stays grey")
    elif kind == "mean":
        advice.append("take more --steps or train longer: the mean brightness is learned late")
    elif kind == "contrast":
        advice.append("take more --steps or another sampler")
    else:
        advice.append("take more --steps or train longer")
    return ", or ".join(advice)
