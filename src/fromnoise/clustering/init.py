"""What is believed first: who belongs together before any diffusion model has learned anything."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.clustering import encoder
from fromnoise.clustering.baselines import components, flat, kmeans
from fromnoise.config import ClusterRecipe
from fromnoise.data import Images
from fromnoise.utils.device import Compute
from fromnoise.utils.errors import UserError

Tick = Callable[[float], object]
"""Told the share that is done."""

_SURE = 0.9  # what k-means says is believed by so much: the rest goes to the other clusters evenly


def believed(which: Tensor, clusters: int) -> Tensor:
    """Clusters as probabilities that are not quite sure, float64 (N, Q)."""
    rest = (1 - _SURE) / (clusters - 1)
    return torch.full((len(which), clusters), rest, dtype=torch.float64).scatter(1, which[:, None], _SURE)


def begin(images: Images, how: ClusterRecipe, compute: Compute, seed: int, tick: Tick = lambda share: None) -> Tensor:
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
    if len(images) < how.count:
        raise UserError(f"{len(images)} images cannot make {how.count} clusters: take a smaller -q")
    return _WAYS[how.start](images, how, compute, seed, tick)


def _random(images: Images, how: ClusterRecipe, compute: Compute, seed: int, tick: Tick) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return believed(torch.randint(how.count, (len(images),), generator=generator), how.count)


def _pixels(images: Images, how: ClusterRecipe, compute: Compute, seed: int, tick: Tick) -> Tensor:
    return believed(kmeans(flat(images), how.count, seed), how.count)


def _pca(images: Images, how: ClusterRecipe, compute: Compute, seed: int, tick: Tick) -> Tensor:
    return believed(kmeans(components(flat(images)), how.count, seed), how.count)


def taught(
    images: Images, how: ClusterRecipe, compute: Compute, seed: int, tick: Tick = lambda share: None
) -> encoder.Seen:
    """What an encoder says of the images from which it learned; arguments as of ``begin``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = encoder.Encoder(images.shape, how.count)
    hints = encoder.Hints.of(components(flat(images)), how.count, seed)
    batch = min(how.encoder_batch, len(images))
    lessons = encoder.learn(net, images, compute, steps=how.encoder_steps, batch=batch, hints=hints, seed=seed)
    for step, _ in enumerate(lessons, 1):
        tick(step / how.encoder_steps)
    return encoder.see(net, images, compute)


def _encoder(images: Images, how: ClusterRecipe, compute: Compute, seed: int, tick: Tick) -> Tensor:
    return taught(images, how, compute, seed, tick).q


_WAYS: dict[str, Callable[[Images, ClusterRecipe, Compute, int, Tick], Tensor]] = {
    "encoder": _encoder,
    "pca": _pca,
    "pixels": _pixels,
    "random": _random,
}
