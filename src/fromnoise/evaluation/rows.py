"""The numbers of a judgement by name, each beside its floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fromnoise.evaluation.measurement import Evaluation
from fromnoise.evaluation.memorization import Lengths
from fromnoise.evaluation.metrics.frechet import Estimate, Frechet


@dataclass(frozen=True)
class MetricRow:
    """A number, and the same of real images that were not learned from.

    Attributes:
        key: in JSON.
        title: in tables.
        found: of the samples.
        floor: of held-out images; None where they have none.
        better: "lower", "higher", or "" where nearer to the floor is better.
        features: in which it was measured.
    """

    key: str
    title: str
    found: Estimate
    floor: Estimate | None
    better: str
    features: str

    def as_json(self) -> dict[str, Any]:
        """Value, error, n, features; the floor with its own error and n."""
        plain: dict[str, Any] = self.found.json()
        if isinstance(self.found, Frechet):
            plain["limit"] = self.found.limit
        if self.floor is not None:
            floor = self.floor.json()
            plain |= {"floor": floor["value"], "floor_error": floor["error"], "floor_n": floor["n"]}
        return plain | {"features": self.features}


def numbers(judged: Evaluation, floor: Evaluation, features: str, lengths: Lengths | None = None) -> list[MetricRow]:
    """All numbers of a subject.

    Args:
        judged: of the samples.
        floor: of held-out real images.
        features: name of the feature space.
        lengths: of its model, if they were measured.
    """
    n, fewer = judged.tally.n, floor.tally.n
    inception = features == "inception"
    distance = floor.frechet if fewer == n else floor.frechet.at(n)
    out = [
        MetricRow(
            "frechet", "FID" if inception else f"Frechet ({features})", judged.frechet, distance, "lower", features
        ),
        MetricRow(
            "kernel", "KID" if inception else f"kernel ({features})", judged.kernel, floor.kernel, "lower", features
        ),
    ]
    for key in ("precision", "recall", "density", "coverage"):
        found, real = getattr(judged.neighbourhoods, key), getattr(floor.neighbourhoods, key)
        out.append(MetricRow(key, key, found, real if fewer == n else None, "higher", features))
    if judged.score is not None:
        title = "Inception Score" if inception else "classifier score"
        out.append(MetricRow("score", title, judged.score, floor.score if fewer == n else None, "higher", features))
    for space, found in judged.nearest.items():
        real, key = floor.nearest[space], space.replace(" ", "_")
        out.append(MetricRow(f"copies_{key}", f"copies by {space}", found.copies, real.copies, "", space))
        out.append(
            MetricRow(f"nearest_{key}", f"nearest by {space}", _near(found.distances), _near(real.distances), "", space)
        )
    out.append(MetricRow("twins", "twins", judged.twins.copies, floor.twins.copies, "", "pixels"))
    if lengths is not None:
        told = (
            ("bits_held_out", "bits/dim of held-out images", lengths.held_out, "lower"),
            ("bits_training", "bits/dim of training images", lengths.training, ""),
            ("bits_gap", "held out less training, at equal roughness", lengths.gap, ""),
        )
        out += [MetricRow(key, title, found, None, better, "pixels") for key, title, found, better in told]
    return out


def _near(distances: torch.Tensor) -> Estimate:
    return Estimate.of(distances[:, 0])
