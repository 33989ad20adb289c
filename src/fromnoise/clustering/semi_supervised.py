"""Known clusters of some images, spread over the features of all of them: the start of semi-supervised clustering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.clustering.calibration import temperature_from_labels, temperature_of_mean, tempered
from fromnoise.clustering.given_labels import align_clusters
from fromnoise.clustering.graph import NeighbourGraph, label_seeds, prepare_features, propagate
from fromnoise.clustering.init import InitialClusters

_FOLDS = 5
_ENOUGH = 20  # labels of each cluster, from which on they choose how labels spread
_CONFIDENCE = 0.9  # mean probability where there are too few labels to measure one


@dataclass(frozen=True)
class _Spreading:
    """How labels spread.

    Attributes:
        distance: a of ``propagate``.
        start: weight of the start's responsibilities as labels, in those of a cluster's given labels.
    """

    distance: float
    start: float


_DEFAULT = _Spreading(0.99, 0.1)
_CHOICES = (_DEFAULT, _Spreading(0.9, 0.1), _Spreading(0.99, 1.0))


def spread_given_labels(initial: InitialClusters, given: Tensor, seed: int = 0) -> Tensor:
    """Responsibilities that known clusters of some images and the initial clusters of all of them agree on, (N, Q).

    The clusters are renumbered to agree with the labels. Then the labels, and with a small weight the initial
    responsibilities, spread over a graph of the features (Zhou et al. 2004); clusters without labels have the initial
    ones alone. The temperature of the result is the one that predicts labels best that were left out, in five folds;
    with one label in some cluster, it is the one of a mean probability of 0.9. From 20 labels a cluster, left-out
    labels also choose how far labels spread and the weight of the start. Without features the clusters are renumbered
    only. The rows of images with a label, too, are predictions without it, so that they can be compared with it.

    Args:
        initial: responsibilities and features.
        given: known clusters, int64 (N,); -1 where unknown.
        seed: of the folds.
    """
    q = align_clusters(initial.q, given)
    if initial.features is None or not bool((given >= 0).any()):
        return q
    graph = NeighbourGraph.from_points(prepare_features(initial.features))
    known = (given >= 0).nonzero().flatten()
    counts = torch.bincount(given[known])
    smallest = int(counts[counts > 0].min())
    choices = _CHOICES if smallest >= _ENOUGH else (_DEFAULT,)
    choice, left_out = _cross_validated(graph, q, given, known, choices, seed)
    found = _propagated(graph, q, given, choice)
    temperature = (
        temperature_from_labels(left_out, given[known]) if smallest > 1 else temperature_of_mean(found, _CONFIDENCE)
    )
    return tempered(found.index_copy(0, known, left_out), temperature)


def _propagated(graph: NeighbourGraph, q: Tensor, given: Tensor, choice: _Spreading) -> Tensor:
    start = q / q.sum(0).clamp(min=1e-300)  # each cluster has the total weight 1, as its labels have
    labelled = torch.zeros(q.shape[1], dtype=torch.float64)
    labelled[given[given >= 0].unique()] = 1.0
    weight = labelled * choice.start + (1 - labelled) * (1 + choice.start)
    return propagate(graph, label_seeds(given, q.shape[1]) + weight * start, choice.distance)


def _cross_validated(
    graph: NeighbourGraph, q: Tensor, given: Tensor, known: Tensor, choices: Sequence[_Spreading], seed: int
) -> tuple[_Spreading, Tensor]:
    """The way of spreading with the least cross-entropy of labels left out, and the predictions of these, (n, Q)."""
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    order = order[given[known[order]].argsort(stable=True)]  # every fold has a part of each cluster
    best, found = torch.inf, (_DEFAULT, q[known])
    for choice in choices:
        left_out = torch.empty(len(known), q.shape[1], dtype=torch.float64)
        for fold in range(min(_FOLDS, len(known))):
            part, hidden = order[fold::_FOLDS], given.clone()
            hidden[known[part]] = -1
            left_out[part] = _propagated(graph, q, hidden, choice)[known[part]]
        likely = tempered(left_out, temperature_from_labels(left_out, given[known])).gather(1, given[known][:, None])
        loss = float(-likely.log().mean())
        if loss < best:
            best, found = loss, (choice, left_out)
    return found
