"""How a finished run agrees with true labels: scores of its clusters, and whether its probabilities are right."""

from __future__ import annotations

from typing import Any

from fromnoise.clustering.calibration import Reliability
from fromnoise.clustering.fit import ClusteringResult
from fromnoise.clustering.scores import ClusterScores
from fromnoise.reporting.documents import Block, Heading, Table, Text

_NAMES = {"initial": "initial clusters", "em": "after EM", "uncalibrated": "E-step", "calibrated": "calibrated"}


def cluster_scores(result: ClusteringResult) -> dict[str, ClusterScores]:
    """Scores before and after EM, of the images without given labels; empty if the true labels are unknown."""
    labels, scored = result.task.labels, result.without_label
    if labels is None or not bool(scored.any()):
        return {}
    clusters = {"initial": result.initial, "em": result.q.argmax(1)}
    return {name: ClusterScores.from_labels(c[scored], labels[scored]) for name, c in clusters.items()}


def reliabilities(result: ClusteringResult) -> dict[str, Reliability]:
    """Reliability before and after calibration, of the images without given labels; empty as ``cluster_scores``."""
    labels, scored = result.task.labels, result.without_label
    if labels is None or not bool(scored.any()):
        return {}
    found = {"uncalibrated": result.q, "calibrated": result.probabilities}
    clusters = result.q.argmax(1)[scored]
    return {name: Reliability.of_clusters(q[scored], clusters, labels[scored]) for name, q in found.items()}


def json_of(result: ClusteringResult) -> dict[str, Any]:
    """The results of a run for a JSON file."""
    out: dict[str, Any] = {"images": len(result.q), "clusters": result.q.shape[1], "rounds": result.rounds}
    scores = cluster_scores(result)
    if scores:
        out["scores"] = {name: s.__dict__ for name, s in scores.items()}
    if result.calibration is not None:
        out["calibration"] = result.calibration.json()
        out["calibration"] |= {name: r.json() for name, r in reliabilities(result).items()}
    return out


def score_blocks(result: ClusteringResult) -> list[Block]:
    """The table of the scores for the page of a run."""
    scores = cluster_scores(result)
    if not scores:
        return []
    which = "of the images without given labels " if result.given is not None else ""
    text = (
        f"Agreement {which}with the labels, which the clustering did not use: accuracy with the best one-to-one "
        "matching of clusters and classes, normalized mutual information, adjusted Rand index."
    )
    rows = [[_NAMES[name], f"{s.accuracy:.4f}", f"{s.nmi:.4f}", f"{s.ari:.4f}"] for name, s in scores.items()]
    return [Text(text), Table(["", "accuracy", "NMI", "ARI"], rows)]


def calibration_blocks(result: ClusteringResult) -> list[Block]:
    """What the probabilities of a run are, and where true labels are known, whether they are right."""
    found = result.calibration
    if found is None:
        return []
    text = (
        "The probabilities of all tables and pictures are calibrated: the log odds of the E-step are divided by a "
        f"temperature of {found.temperature:.3g}, from {found.source}. Of {found.repeated:,} images "
        f"{found.agreement:.1%} are in the same cluster by other noise and diffusion steps. "
    )
    if found.reproduced is not None:
        text += (
            f"{found.reproduced:.1%} of all images are in the same cluster as by clusters found in a random half of "
            "the start's features. "
        )
    text += f"fromnoise assign uses the temperature {found.model_temperature:.3g}."
    if not found.labels:
        text += (
            " Without labels a probability says how far the cluster of an image can be reproduced, and not whether it "
            "is right: clusters that are found again and again, and are no classes, have high probabilities."
        )
    blocks: list[Block] = [Heading("Probabilities"), Text(text)]
    measured = reliabilities(result)
    if not measured:
        return blocks
    rows = [[_NAMES[k], f"{r.ece:.4f}", f"{r.by_chance:.4f}", f"{r.by_chance_95:.4f}"] for k, r in measured.items()]
    after = measured["calibrated"]
    return [
        *blocks,
        Text(
            f"Expected calibration error of the assigned cluster with {after.images:,} images in {len(after.bins)} "
            "bins of equally many, and of probabilities that are right, where it is chance: mean and 95 % quantile."
        ),
        Table(["", "calibration error", "by chance", "95 %"], rows),
        Table(
            ["images", "mean probability", "fraction right"],
            [[f"{n:,}", f"{p:.3f}", f"{hit:.3f}"] for n, p, hit in after.bins],
        ),
    ]
