"""The clusters that a model is told in place of labels, sought before the first step."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from fromnoise.data import BatchStream, to_float
from fromnoise.data.pseudo_labels import PseudoLabels
from fromnoise.utils.kmeans import kmeans

EACH = 100
"""Images that a cluster has on average at least: of fewer images fewer clusters are found."""
_MOST = 20_000  # images in which they are sought


def agreed(pseudo_labels: PseudoLabels, stream: BatchStream, seed: int, accelerator: Accelerator) -> int:
    """As ``find``, the same in all processes."""
    found = find(pseudo_labels, stream, seed)
    if accelerator.num_processes > 1:  # each has found the same but for rounding
        for t in pseudo_labels.buffers():
            broadcast(t)
    return found


def find(pseudo_labels: PseudoLabels, stream: BatchStream, seed: int) -> int:
    """Look for clusters by k-means (Lloyd 1982) in the first images of a stream, as training will see them.

    Args:
        centres: take what is found.
        stream: of training images.
        seed: of the first centres.

    Returns:
        How many were found: at most one for every ``EACH`` images, at least one.
    """
    parts = torch.arange(min(_MOST, len(stream.images))).split(1000)
    points = torch.cat([pseudo_labels.small(to_float(stream.batch(part).pixels)) for part in parts])
    count = max(1, min(len(pseudo_labels.share), len(points) // EACH))
    pseudo_labels.settle(kmeans(points, count, seed).centroids, points)
    return count
