"""What is believed first: who belongs together before any diffusion model has learned anything."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.clustering import encoder
from fromnoise.clustering.baselines import KMEANS_RESTARTS, flat_pixels, principal_components
from fromnoise.config import ClusteringConfig
from fromnoise.data import Images
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError
from fromnoise.utils.kmeans import kmeans

OnProgress = Callable[[float], object]
"""Told the share that is done."""

_SURE = 0.9  # what k-means says is believed by so much: the rest goes to the other clusters evenly


def one_hot_responsibilities(which: Tensor, clusters: int) -> Tensor:
    """Clusters as probabilities that are not quite sure, float64 (N, Q)."""
    rest = (1 - _SURE) / (clusters - 1)
    return torch.full((len(which), clusters), rest, dtype=torch.float64).scatter(1, which[:, None], _SURE)


def begin(
    images: Images,
    config: ClusteringConfig,
    compute: ComputeConfig,
    seed: int,
    on_progress: OnProgress = lambda share: None,
) -> Tensor:
    """The first q, float64 (N, Q).

    Args:
        images: to be sorted.
        how: by what.
        compute: where the encoder learns.
        seed: of all choices.
        tick: told of progress.

    Raises:
        UserError: there are fewer images than clusters.
    """
    if len(images) < config.count:
        raise UserError(f"{len(images)} images cannot make {config.count} clusters: take a smaller -q")
    return _WAYS[config.start](images, config, compute, seed, on_progress)


def _random(
    images: Images, config: ClusteringConfig, compute: ComputeConfig, seed: int, on_progress: OnProgress
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return one_hot_responsibilities(torch.randint(config.count, (len(images),), generator=generator), config.count)


def _pixels(
    images: Images, config: ClusteringConfig, compute: ComputeConfig, seed: int, on_progress: OnProgress
) -> Tensor:
    return one_hot_responsibilities(
        kmeans(flat_pixels(images), config.count, seed, KMEANS_RESTARTS).labels, config.count
    )


def _pca(
    images: Images, config: ClusteringConfig, compute: ComputeConfig, seed: int, on_progress: OnProgress
) -> Tensor:
    return one_hot_responsibilities(
        kmeans(principal_components(flat_pixels(images)), config.count, seed, KMEANS_RESTARTS).labels, config.count
    )


def train_encoder(
    images: Images,
    config: ClusteringConfig,
    compute: ComputeConfig,
    seed: int,
    on_progress: OnProgress = lambda share: None,
) -> encoder.EncoderOutput:
    """What an encoder says of the images from which it learned; arguments as of ``begin``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = encoder.Encoder(images.shape, config.count)
    targets = encoder.KMeansTargets.from_points(principal_components(flat_pixels(images)), config.count, seed)
    batch = min(config.encoder_batch, len(images))
    losses = encoder.train(net, images, compute, steps=config.encoder_steps, batch=batch, targets=targets, seed=seed)
    for step, _ in enumerate(losses, 1):
        on_progress(step / config.encoder_steps)
    return encoder.encode(net, images, compute)


def _encoder(
    images: Images, config: ClusteringConfig, compute: ComputeConfig, seed: int, on_progress: OnProgress
) -> Tensor:
    return train_encoder(images, config, compute, seed, on_progress).q


_WAYS: dict[str, Callable[[Images, ClusteringConfig, ComputeConfig, int, OnProgress], Tensor]] = {
    "encoder": _encoder,
    "pca": _pca,
    "pixels": _pixels,
    "random": _random,
}
