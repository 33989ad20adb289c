"""The small network whose last hidden layer is a feature space, for sets that Inception knows nothing of.

Where there are labels it is trained to tell the classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.data import Batch, BatchStream, Images, to_float
from fromnoise.utils import fitting
from fromnoise.utils.device import ComputeConfig

SIZE = 128  # of the features
VERSION = 1  # of network and training: another one does not read this one's files
_VIEWS = 200_000  # training images seen, unless the set is small
_EPOCHS = 60  # at most
_BATCH = 128
_SHIFT = 2  # pixels by which a 28x28 image is moved about, at most
_EVALUATE = 512
_PEAK_LR, _WEIGHT_DECAY = 4e-3, 0.01


def conv_block(channels: int, out: int, kernel: int, stride: int) -> list[nn.Module]:
    """A convolution that keeps the size at stride 1, batch normalization and a ReLU.

    Args:
        channels: input channels.
        out: output channels.
        kernel: side of the kernel, odd.
        stride: of the convolution.
    """
    return [
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    ]


def affine_warp(x: Tensor, matrices: Tensor) -> Tensor:
    """Resample each image under its own affine map; outside the image the border repeats.

    Args:
        x: images (B, C, H, W).
        matrices: maps from output to input coordinates, both in [-1, 1], (B, 2, 3).

    Returns:
        Bilinearly interpolated images, (B, C, H, W).
    """
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


class ConvNet(nn.Module):
    """Two convolutions a level until a side is at most 8, then 128 features, then a head."""

    def __init__(self, shape: tuple[int, int, int], head: Callable[[int], nn.Module], dropout: float = 0.0) -> None:
        """Make the layers.

        Args:
            shape: (C, H, W) of the images.
            head: makes, for so many features, what takes them after a ReLU.
            dropout: before the features.
        """
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        out = 32
        while True:
            for stride in (2, 1):
                layers += conv_block(channels, out, 3, stride)
                channels = out
            height, width = -(-height // 2), -(-width // 2)
            if max(height, width) <= 8:
                break
            out = min(2 * out, 128)
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout))
        self.features = nn.Sequential(nn.Linear(out * height * width, SIZE, bias=False), nn.BatchNorm1d(SIZE))
        self.head = head(SIZE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and what the head makes of them, of images in [-1, 1].

        Args:
            x: (B, C, H, W).

        Returns:
            (B, 128) and (B, K).
        """
        features = self.features(self.body(x))
        return features, self.head(F.relu(features))


@dataclass(frozen=True)
class TrainingPlan:
    """How long it trains: a number of steps of a batch."""

    steps: int
    batch: int

    @staticmethod
    def of(images: int, views: int = 1) -> TrainingPlan:
        """For a set of this many training images, each seen so many times at once."""
        batch = min(_BATCH, images)
        return TrainingPlan(max(1, math.ceil(min(_VIEWS // views, _EPOCHS * images) / batch)), batch)


Loss = Callable[[Batch], Tensor]


def train(
    net: nn.Module, images: Images, plan: TrainingPlan, compute: ComputeConfig, loss: Loss, seed: int = 0
) -> Iterator[float]:
    """Train, with one rise and fall of the learning rate.

    Args:
        net: fresh.
        images: to learn from.
        plan: how long.
        compute: where and how precisely.
        loss: of a batch.
        seed: of order and of all that ``loss`` draws.

    Returns:
        A generator that yields the loss after each step; the network is ready, in eval mode, when it ends.
    """
    batches = islice(BatchStream(images, seed).iterate(0, plan.batch), plan.steps)
    schedule = fitting.one_cycle(_PEAK_LR, plan.steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield from fitting.fit(net, batches, loss, compute, lr_schedule=schedule, weight_decay=_WEIGHT_DECAY)


def classifier(shape: tuple[int, int, int], classes: int) -> ConvNet:
    """A fresh network that tells classes."""
    return ConvNet(shape, lambda size: nn.Linear(size, classes), dropout=0.2)


def fit(net: ConvNet, images: Images, plan: TrainingPlan, compute: ComputeConfig) -> Iterator[float]:
    """Train a classifier, on images moved by up to 1/14 of their side.

    Args:
        net: fresh.
        images: with labels.
        plan: how long.
        compute: where and how precisely.

    Returns:
        As ``train``.
    """

    def loss(batch: Batch) -> Tensor:
        assert batch.labels is not None
        x = to_float(_shifted(batch.pixels).to(compute.device)).contiguous(memory_format=compute.memory_format)
        with compute.autocast():
            _, logits = net(x)
        return F.cross_entropy(logits.float(), batch.labels.to(compute.device), label_smoothing=0.05)

    yield from train(net, images, plan, compute, loss)


def _shifted(pixels: Tensor) -> Tensor:
    """A batch moved by a few pixels, all of it alike; the border repeats."""
    most = max(pixels.shape[-2:]) * _SHIFT // 28
    if not most:
        return pixels
    down, right = torch.randint(2 * most + 1, (2,)).tolist()
    padded = F.pad(pixels.float(), (most,) * 4, mode="replicate").to(torch.uint8)
    return padded[..., down : down + pixels.shape[-2], right : right + pixels.shape[-1]]


def accuracy(net: ConvNet, images: Images, compute: ComputeConfig) -> float:
    """Share of images whose class is told right."""
    assert images.labels is not None
    right = 0
    for ids in torch.arange(len(images)).split(_EVALUATE):
        x = to_float(images.get(ids).to(compute.device)).contiguous(memory_format=compute.memory_format)
        with torch.inference_mode():
            right += int((net(x)[1].argmax(1).cpu() == images.labels[ids]).sum())
    return right / len(images)
