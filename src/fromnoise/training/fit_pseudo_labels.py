"""Fits the pseudo-labels of a model to its training images before the first step."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from fromnoise.data import BatchStream, to_float
from fromnoise.data.pseudo_labels import PseudoLabels
from fromnoise.utils.kmeans import kmeans

IMAGES_PER_CLUSTER = 100
"""Least mean number of images in a cluster: a smaller set has fewer clusters."""
_MAX_IMAGES = 20_000  # images that k-means clusters, at most


def fit_synchronized(pseudo_labels: PseudoLabels, stream: BatchStream, seed: int, accelerator: Accelerator) -> int:
    """As ``fit``, with identical results in all processes."""
    clusters = fit(pseudo_labels, stream, seed)
    if accelerator.num_processes > 1:  # rounding may differ between processes
        for buffer in pseudo_labels.buffers():
            broadcast(buffer)
    return clusters


def fit(pseudo_labels: PseudoLabels, stream: BatchStream, seed: int) -> int:
    """Cluster the first images of a training stream by k-means (Lloyd 1982).

    Args:
        pseudo_labels: takes the centroids and weights.
        stream: of training images, augmented as in training.
        seed: of the initial centroids.

    Returns:
        The number of clusters: at most one for every ``IMAGES_PER_CLUSTER`` images, at least one.
    """
    parts = torch.arange(min(_MAX_IMAGES, len(stream.images))).split(1000)
    points = torch.cat([pseudo_labels.downsample(to_float(stream.batch(part).pixels)) for part in parts])
    count = max(1, min(len(pseudo_labels.weights), len(points) // IMAGES_PER_CLUSTER))
    pseudo_labels.fit(kmeans(points, count, seed).centroids, points)
    return count
