"""Fits the pseudo-labels of a model to its training images before the first step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from fromnoise.data import BatchStream, to_float
from fromnoise.data.pseudo_labels import PseudoLabels
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.networks.cluster_means import ClusterMeans
from fromnoise.utils.kmeans import kmeans

IMAGES_PER_CLUSTER = 75
"""Least mean number of images in a cluster: a smaller set has fewer clusters."""
_MAX_IMAGES = 20_000  # images that k-means clusters, at most
_ITERATIONS = 30


def fit_synchronized(denoiser: Denoiser, stream: BatchStream, seed: int, accelerator: Accelerator) -> int:
    """Fit the pseudo-labels of a denoiser and their mean images, with identical results in all processes.

    The arguments and the result are those of ``fit``.
    """
    clusters = fit(denoiser.pseudo_labels, stream, seed)
    buffers = list(denoiser.pseudo_labels.buffers())
    if isinstance(denoiser.network, ClusterMeans):
        fit_means(denoiser.network.means, denoiser.pseudo_labels, stream)
        buffers.append(denoiser.network.means)
    if accelerator.num_processes > 1:  # rounding may differ between processes
        for buffer in buffers:
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
    points = torch.cat([pseudo_labels.downsample(images) for images in _first_images(stream)])
    count = max(1, min(len(pseudo_labels.weights), len(points) // IMAGES_PER_CLUSTER))
    pseudo_labels.fit(kmeans(points, count, seed, iterations=_ITERATIONS).centroids, points)
    return count


def fit_means(means: Tensor, pseudo_labels: PseudoLabels, stream: BatchStream) -> None:
    """Set the mean images of all of the first images of a training stream, and of each cluster.

    Args:
        means: of ``ClusterMeans``; that of an empty cluster is the mean of all.
        pseudo_labels: fitted.
        stream: as of ``fit``.
    """
    sums = torch.zeros(means.shape, dtype=torch.float64)
    counts = torch.zeros(len(means), dtype=torch.float64)
    for images in _first_images(stream):
        clusters = pseudo_labels.assign(images.to(means.device)).cpu() + 1
        sums.index_add_(0, clusters, images.double())
        counts += clusters.bincount(minlength=len(counts))
    sums[0], counts[0] = sums.sum(0), counts.sum()
    found = sums / counts.clamp(min=1)[:, None, None, None]
    means.copy_(torch.where((counts > 0)[:, None, None, None], found, found[:1]))


def _first_images(stream: BatchStream) -> Iterator[Tensor]:
    """The images from which clusters are made, float32 in [-1, 1] on the CPU, in parts."""
    for part in torch.arange(min(_MAX_IMAGES, len(stream.images))).split(1000):
        yield to_float(stream.batch(part).pixels)
