"""Self-supervised features by SimCLR (Chen et al. 2020, eq. 1), for data sets without labels.

The augmentations rotate, enlarge, stretch and translate an image and erase a patch. The features become invariant to
them, so the augmentations leave out what a metric must detect: noise, brightness and colour.

The encoder in ``clustering/encoder.py`` has the same loss and other augmentations: these hide noise and brightness,
which do not change what an image shows.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.data import Batch, Images, to_float
from fromnoise.evaluation.features.convnet import ConvNet, TrainingPlan, affine_warp, train_network
from fromnoise.utils.device import ComputeConfig

VERSION = 1
"""Version of network and training; files of another version are not read."""
_EMBEDDING = 64  # outputs of the projection head
_TEMPERATURE = 0.2
_ANGLE = 0.25  # largest rotation, in radians
_CROP = 0.6  # smallest visible fraction of a side
_STRETCH = 1.2  # largest stretch of a side
_PATCH = 3  # the erased patch has a third of the larger side
_CANDIDATES = 256  # images among which one is retrieved


def simclr_network(shape: tuple[int, int, int]) -> ConvNet:
    """An initialized network with a projection head, for images (C, H, W)."""
    return ConvNet(
        shape, lambda size: nn.Sequential(nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, _EMBEDDING))
    )


def train_simclr(net: ConvNet, images: Images, compute: ComputeConfig) -> Generator[float, None, None]:
    """Train on two views of each image.

    Args:
        net: initialized.
        images: training images; labels are ignored.
        compute: device and precision.

    Yields:
        The loss after each step.
    """

    def loss(batch: Batch) -> Tensor:
        views = torch.cat([random_view(batch.pixels), random_view(batch.pixels)])
        return nt_xent(_embed(net, views, compute))

    yield from train_network(net, images, training_plan(images), compute, loss)


def training_plan(images: Images) -> TrainingPlan:
    """Steps and batch size; images larger than 32x32, which take longer, get fewer steps."""
    _, height, width = images.shape
    return TrainingPlan.for_images(len(images), views=2 * math.ceil(height * width / 32**2))


def retrieval_accuracy(net: ConvNet, images: Images, compute: ComputeConfig) -> float:
    """Fraction of images that one view retrieves, among all images, by another view.

    Args:
        net: trained, in eval mode.
        images: held out; the first 256 are used.
        compute: device.
    """
    pixels = images.get(torch.arange(min(_CANDIDATES, len(images))))
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        one, other = (F.normalize(_embed(net, random_view(pixels), compute), dim=1) for _ in range(2))
    return float((torch.argmax(one @ other.T, 1).cpu() == torch.arange(len(pixels))).double().mean())


def _embed(net: ConvNet, views: Tensor, compute: ComputeConfig) -> Tensor:
    x = views.to(compute.device).contiguous(memory_format=compute.memory_format)
    with compute.autocast():
        return net(x)[1].float()


def nt_xent(embeddings: Tensor) -> Tensor:
    """NT-Xent loss: the mean of -log softmax(cosine / temperature) of each view's partner among all other views.

    Args:
        embeddings: of the first views, then of the second views, (2B, D).
    """
    z = F.normalize(embeddings, dim=1)
    logits = (z @ z.T / _TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z) // 2))


def random_view(pixels: Tensor) -> Tensor:
    """Randomly augmented images: rotated, enlarged, stretched, translated, and with a patch erased.

    Args:
        pixels: uint8 (B, C, H, W).

    Returns:
        float32 (B, C, H, W) in [-1, 1].
    """
    x = to_float(pixels)
    count, _, height, width = x.shape
    angle, crop, stretch, right, down = 2 * torch.rand(5, count) - 1
    angle, stretch, crop = _ANGLE * angle, _STRETCH**stretch, 1 - (1 - _CROP) * (crop + 1) / 2
    right, down = right * (1 - crop), down * (1 - crop)
    x_row = torch.stack([crop * stretch * angle.cos(), -crop * angle.sin(), right], 1)
    y_row = torch.stack([crop * angle.sin(), crop / stretch * angle.cos(), down], 1)
    warped = affine_warp(x, torch.stack([x_row, y_row], 1))
    patch = max(1, max(height, width) // _PATCH)
    top, left = (torch.randint(n, (count, 1, 1)) - patch // 2 for n in (height, width))
    row, column = torch.arange(height)[:, None], torch.arange(width)
    erased = ((row >= top) & (row < top + patch) & (column >= left) & (column < left + patch))[:, None]
    return torch.where(erased, warped.mean((2, 3), keepdim=True), warped)
