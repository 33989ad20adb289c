"""What is wrong, how it shows and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fromnoise.evaluation.measurement import MIRRORED, Evaluation
from fromnoise.evaluation.memorization import Lengths
from fromnoise.evaluation.metrics.frechet import Estimate

_SURE = 3.0  # standard errors
_RATE = 0.02  # that a rate must be above the real one to be spoken of
_GAP = 0.02  # of the held-out code length, by which a training image must be cheaper to be spoken of


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        key: a word for it.
        what: the fault and the figures that show it.
        mend: what to do.
    """

    key: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}: {self.mend}"


def of_samples(judged: Evaluation, floor: Evaluation) -> Iterator[Finding]:
    """Faults of samples beside held-out real images.

    Args:
        judged: of the samples.
        floor: of held-out real images.
    """
    yield from _copies(judged, floor)
    yield from _twins(judged, floor)
    yield from _shares(judged)
    yield from _shifts(judged)


def of_lengths(lengths: Lengths) -> Iterator[Finding]:
    """Training images that cost a model clearly less than held-out ones.

    Args:
        lengths: of the model.
    """
    gap, held_out = lengths.gap, lengths.held_out
    if gap.value > max(_SURE * gap.error, _GAP * abs(held_out.value)):
        yield Finding(
            "memorised",
            f"training images cost the model {gap.value:.2f} +- {gap.error:.2f} bits/dim less than held-out ones "
            f"({lengths.training.value:.2f} for {held_out.value:.2f})",
            "it learns them by heart: train on more images or for fewer steps, raise network.dropout",
        )


def exceeds(found: Estimate, real: Estimate) -> bool:
    """Whether one rate is surely and visibly above another; a count more or less is no surety."""
    error = math.hypot(found.error, real.error, 1 / found.n, 1 / real.n)
    return found.value - real.value > max(_SURE * error, _RATE)


def _copies(judged: Evaluation, floor: Evaluation) -> Iterator[Finding]:
    """By whichever space shows it first; mirrored ones are told apart."""
    mend = "train on more images or for fewer steps, raise network.dropout"
    for space, nearest in judged.nearest.items():
        found, real = nearest.copies, floor.nearest[space].copies
        if space != MIRRORED and exceeds(found, real):
            yield Finding(
                "copies",
                f"{found.value:.1%} of the samples are copies of training images by {space}, "
                f"{real.value:.1%} of held-out images are",
                f"{mend}, set data.flip where mirrored images are as good",
            )
            break
    turned, real = judged.nearest[MIRRORED].copies, floor.nearest[MIRRORED].copies
    # of honest samples that come mirrored more are like mirrored images, and as many fewer like plain ones
    both, usual = (_sum(n["pixels"].copies, n[MIRRORED].copies) for n in (judged.nearest, floor.nearest))
    if exceeds(turned, real) and exceeds(both, usual):
        yield Finding(
            "mirrored",
            f"{turned.value:.1%} of the samples are mirrored copies of training images by pixels, "
            f"{real.value:.1%} of held-out images are",
            mend,
        )


def _sum(a: Estimate, b: Estimate) -> Estimate:
    return Estimate(a.value + b.value, math.hypot(a.error, b.error), a.n)


def _twins(judged: Evaluation, floor: Evaluation) -> Iterator[Finding]:
    found, real = judged.twins.copies, floor.twins.copies
    if exceeds(found, real):
        yield Finding(
            "twins",
            f"{found.value:.1%} of the samples have a twin among the others, {real.value:.1%} of held-out images do",
            "the samples have too little variety: lower --guidance, train longer, or on more images",
        )


def _shares(judged: Evaluation) -> Iterator[Finding]:
    for verdict, mend in (
        ("missing", "look at the samples; train longer, or with --data.labels true and draw --label all"),
        ("rare", "train longer, or with --data.labels true and draw --label all"),
        ("frequent", "train longer, or take more --steps: few steps favour simple images"),
    ):
        rows = [s for s in judged.shares if s.verdict == verdict]
        if rows:
            shown = ", ".join(f"{s.name} ({s.found:.1%} for {s.real:.1%})" for s in rows[:6])
            more = f" and {len(rows) - 6} more" if len(rows) > 6 else ""
            yield Finding(verdict, f"{verdict} among the samples: {shown}{more}", mend)


_MENDS = {
    "mean": "keep x_0 clipped (--clip), take more --steps, or train longer: the mean settles last",
    "contrast": "take more --steps or another rule; lower --guidance if there is any",
    "strength": "take more --steps or train longer; lower --guidance if colours are too strong",
    "per": "take more --steps: too few leave backgrounds that are not quite black or white; lower --guidance "
    "where too much is clipped",
}


def _shifts(judged: Evaluation) -> Iterator[Finding]:
    for shift in judged.shifts:
        if shift.verdict:
            word = shift.name.split()[0]
            yield Finding(
                "clipped" if word == "per" and shift.verdict == "high" else "colour",
                f"{shift.name} is {shift.verdict}: {shift.found:.1f} for {shift.real:.1f} +- {shift.error:.1f}",
                _MENDS[word],
            )
