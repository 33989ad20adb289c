"""The same network trained without labels: it learns to tell each image from all others by two views of it.

SimCLR (Chen et al. 2020, eq. 1). A view is turned, enlarged, moved, and lacks a patch; it is not made noisy, brightened
or tinted: what a view changes the features learn not to see, and samples are judged by these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.data import Batch, Images, to_float
from fromnoise.evaluation.features.convnet import ConvNet, TrainingPlan, affine_warp, train
from fromnoise.utils.device import ComputeConfig

VERSION = 1  # of network and training: another one does not read this one's files
_TOLD = 64  # numbers that the head makes of an image
_TEMPERATURE = 0.2
_TURN = 0.25  # radians by which a view is turned, at most
_ZOOM = 0.6  # share of the sides that it shows, at least
_STRETCH = 1.2  # by which a side is stretched, at most
_PATCH = 3  # it lacks a patch of a third of the sides
_AMONG = 256  # images from which one is told, for the mark


def network(shape: tuple[int, int, int]) -> ConvNet:
    """A fresh network for images (C, H, W)."""
    return ConvNet(
        shape, lambda size: nn.Sequential(nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, _TOLD))
    )


def fit(net: ConvNet, images: Images, compute: ComputeConfig) -> Iterator[float]:
    """Train.

    Args:
        net: fresh.
        images: to learn from.
        compute: where and how precisely.

    Returns:
        As ``network.train``.
    """

    def loss(batch: Batch) -> Tensor:
        return contrast(_told(net, torch.cat([view(batch.pixels), view(batch.pixels)]), compute))

    yield from train(net, images, plan(images), compute, loss)


def plan(images: Images) -> TrainingPlan:
    """How long it trains: on two views of an image, and on fewer of images larger than 32x32, which take longer."""
    _, height, width = images.shape
    return TrainingPlan.of(len(images), views=2 * math.ceil(height * width / 32**2))


def mark(net: ConvNet, images: Images, compute: ComputeConfig) -> float:
    """Share of images that are told from 255 others by another view of them.

    Args:
        net: trained, in eval mode.
        images: held out; the first 256.
        compute: where.
    """
    pixels = images.get(torch.arange(min(_AMONG, len(images))))
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        one, other = (F.normalize(_told(net, view(pixels), compute), dim=1) for _ in range(2))
    return float((torch.argmax(one @ other.T, 1).cpu() == torch.arange(len(pixels))).double().mean())


def _told(net: ConvNet, views: Tensor, compute: ComputeConfig) -> Tensor:
    x = views.to(compute.device).contiguous(memory_format=compute.memory_format)
    with compute.autocast():
        return net(x)[1].float()


def contrast(told: Tensor) -> Tensor:
    """Mean of -log p(an image's other view | all other views), by cosines over the temperature.

    Args:
        told: what the head made of first views, then of second views, (2B, D).
    """
    z = F.normalize(told, dim=1)
    likeness = (z @ z.T / _TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(likeness, torch.arange(len(z), device=z.device).roll(len(z) // 2))


def view(pixels: Tensor) -> Tensor:
    """Another look at images: each turned, enlarged, stretched and moved a little, and a patch of it flat.

    Args:
        pixels: uint8 (B, C, H, W).

    Returns:
        float32, as ``to_float`` gives them.
    """
    x = to_float(pixels)
    count, _, height, width = x.shape
    turn, zoom, stretch, right, down = 2 * torch.rand(5, count) - 1
    turn, stretch, zoom = _TURN * turn, _STRETCH**stretch, 1 - (1 - _ZOOM) * (zoom + 1) / 2
    right, down = right * (1 - zoom), down * (1 - zoom)
    across = torch.stack([zoom * stretch * turn.cos(), -zoom * turn.sin(), right], 1)
    along = torch.stack([zoom * turn.sin(), zoom / stretch * turn.cos(), down], 1)
    moved = affine_warp(x, torch.stack([across, along], 1))
    patch = max(1, max(height, width) // _PATCH)
    top, left = (torch.randint(n, (count, 1, 1)) - patch // 2 for n in (height, width))
    y, x_ = torch.arange(height)[:, None], torch.arange(width)
    flat = ((y >= top) & (y < top + patch) & (x_ >= left) & (x_ < left + patch))[:, None]
    return torch.where(flat, moved.mean((2, 3), keepdim=True), moved)
