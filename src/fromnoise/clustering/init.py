"""Initial clusters: responsibilities and features before any diffusion model is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.clustering import encoder
from fromnoise.clustering.baselines import KMEANS_RESTARTS, flat_pixels, principal_components
from fromnoise.clustering.graph import prepare_features
from fromnoise.clustering.spectral import spectral_clusters
from fromnoise.config import ClusteringConfig
from fromnoise.data import Images
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError
from fromnoise.utils.kmeans import kmeans

OnProgress = Callable[[float], object]
"""Called with the completed fraction."""

_EPOCHS = 250  # of the encoder, at most: a small set needs no more
_BUDGET_SHARE = 0.3  # of a budget in minutes that the encoder takes, at most
_CONFIDENCE = 0.9  # probability of the assigned cluster; the others share the rest


@dataclass(frozen=True)
class InitialClusters:
    """Initial clusters, and what they were found by.

    Attributes:
        q: responsibilities, float64 (N, Q).
        features: feature vectors, float (N, D), over which known labels of some images spread; None if there are none.
    """

    q: Tensor
    features: Tensor | None = None


def smoothed_one_hot(labels: Tensor, clusters: int) -> Tensor:
    """Responsibilities of 0.9 for the clusters ``labels`` (N,), float64 (N, Q)."""
    rest = (1 - _CONFIDENCE) / (clusters - 1)
    return torch.full((len(labels), clusters), rest, dtype=torch.float64).scatter(1, labels[:, None], _CONFIDENCE)


def check_count(images: int, clusters: int) -> None:
    """Check that there are at least as many images as clusters.

    Raises:
        UserError: there are fewer.
    """
    if images < clusters:
        raise UserError(f"{images} images cannot make {clusters} clusters: use a smaller -q")


def initial_clusters(
    images: Images,
    config: ClusteringConfig,
    compute: ComputeConfig,
    seed: int,
    on_progress: OnProgress = lambda fraction: None,
    features: Tensor | None = None,
) -> InitialClusters:
    """Initial clusters by ``config.init``.

    Args:
        images: images to cluster.
        config: method and number of clusters.
        compute: device of the encoder.
        seed: of all random numbers.
        on_progress: called with the completed fraction while the encoder trains.
        features: the user's own features of the images, (N, D); for the method ``features``.

    Raises:
        UserError: there are fewer images than clusters.
        ValueError: there are no features for the method ``features``.
    """
    check_count(len(images), config.count)
    if config.init == "features":
        if features is None:
            raise ValueError("clustering.init features needs features")
        return clusters_of_features(features, config, seed)
    return _INITIALIZERS[config.init](images, config, compute, seed, on_progress)


def within_budget(
    config: ClusteringConfig, minutes: float | None, images: Images, compute: ComputeConfig
) -> ClusteringConfig:
    """The configuration with at most 250 epochs of the encoder, and at most 0.3 of a budget in minutes for it."""
    if config.init != "encoder":
        return config
    batch = min(config.encoder_batch, len(images))
    steps = min(config.encoder_steps, _EPOCHS * math.ceil(len(images) / batch))
    if minutes is not None:
        steps = min(steps, encoder.affordable_steps(images, compute, batch, 60 * minutes * _BUDGET_SHARE))
    return config.model_copy(update={"encoder_steps": steps})


def encoder_features(
    images: Images,
    config: ClusteringConfig,
    compute: ComputeConfig,
    seed: int,
    on_progress: OnProgress = lambda fraction: None,
) -> Tensor:
    """Train an encoder on images and return their features, float32 (N, 128); arguments as in ``initial_clusters``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = encoder.Encoder(images.shape)
    batch = min(config.encoder_batch, len(images))
    losses = encoder.train(net, images, compute, steps=config.encoder_steps, batch=batch, seed=seed)
    for step, _ in enumerate(losses, 1):
        on_progress(step / config.encoder_steps)
    return encoder.encode(net, images, compute)


def clusters_of_features(features: Tensor, config: ClusteringConfig, seed: int) -> InitialClusters:
    """Spectral clusters of features (N, D)."""
    points = prepare_features(features)
    return InitialClusters(spectral_clusters(points, config.count, seed), points)


def _by_encoder(
    images: Images, config: ClusteringConfig, compute: ComputeConfig, seed: int, on_progress: OnProgress
) -> InitialClusters:
    return clusters_of_features(encoder_features(images, config, compute, seed, on_progress), config, seed)


def _by_components(
    images: Images, config: ClusteringConfig, compute: ComputeConfig, seed: int, _: OnProgress
) -> InitialClusters:
    points = principal_components(flat_pixels(images))
    return InitialClusters(_by_kmeans(points, config, seed), points)


def _by_pixels(
    images: Images, config: ClusteringConfig, compute: ComputeConfig, seed: int, _: OnProgress
) -> InitialClusters:
    points = flat_pixels(images)
    return InitialClusters(_by_kmeans(points, config, seed), points)


def _by_kmeans(points: Tensor, config: ClusteringConfig, seed: int) -> Tensor:
    return smoothed_one_hot(kmeans(points, config.count, seed, KMEANS_RESTARTS).labels, config.count)


def _at_random(
    images: Images, config: ClusteringConfig, compute: ComputeConfig, seed: int, _: OnProgress
) -> InitialClusters:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(config.count, (len(images),), generator=generator)
    return InitialClusters(smoothed_one_hot(labels, config.count))


_INITIALIZERS: dict[str, Callable[[Images, ClusteringConfig, ComputeConfig, int, OnProgress], InitialClusters]] = {
    "encoder": _by_encoder,
    "pca": _by_components,
    "pixels": _by_pixels,
    "random": _at_random,
}
