"""A small convolutional network whose last hidden layer is a feature space for data sets unlike ImageNet.

Here it is trained as a classifier; ``simclr`` trains it without labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.data import Batch, BatchStream, Images, to_float
from fromnoise.utils import fitting
from fromnoise.utils.device import ComputeConfig

DIM = 128
"""Number of features."""
VERSION = 1
"""Version of network and training; files of another version are not read."""
_IMAGES = 200_000  # training images seen, unless the data set is small
_EPOCHS = 60  # at most
_BATCH = 128
_SHIFT = 2  # largest translation of a 28x28 image, in pixels
_TEST_BATCH = 512
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
    """Two convolutions per level until the larger side is at most 8, then 128 features, then a head."""

    def __init__(self, shape: tuple[int, int, int], head: Callable[[int], nn.Module], dropout: float = 0.0) -> None:
        """Build the layers.

        Args:
            shape: (C, H, W) of the images.
            head: builds the head from its number of inputs, which are the features after a ReLU.
            dropout: before the feature layer.
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
        self.features = nn.Sequential(nn.Linear(out * height * width, DIM, bias=False), nn.BatchNorm1d(DIM))
        self.head = head(DIM)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and outputs of the head.

        Args:
            x: images in [-1, 1], (B, C, H, W).

        Returns:
            (B, 128) and (B, K).
        """
        features = self.features(self.body(x))
        return features, self.head(F.relu(features))


@dataclass(frozen=True)
class TrainingPlan:
    """Number of training steps and batch size."""

    steps: int
    batch: int

    @staticmethod
    def for_images(images: int, views: int = 1) -> TrainingPlan:
        """The plan for a number of training images, of each of which a step sees ``views`` views."""
        batch = min(_BATCH, images)
        return TrainingPlan(max(1, math.ceil(min(_IMAGES // views, _EPOCHS * images) / batch)), batch)


Loss = Callable[[Batch], Tensor]


def train_network(
    net: nn.Module, images: Images, plan: TrainingPlan, compute: ComputeConfig, loss: Loss, seed: int = 0
) -> Generator[float, None, None]:
    """Train with a one-cycle learning rate.

    Args:
        net: initialized.
        images: training images.
        plan: steps and batch size.
        compute: device and precision.
        loss: of a batch.
        seed: of the order of the images and of the random numbers of ``loss``.

    Yields:
        The loss after each step; at the end the network is in eval mode.
    """
    batches = islice(BatchStream(images, seed).iterate(0, plan.batch), plan.steps)
    schedule = fitting.one_cycle(_PEAK_LR, plan.steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield from fitting.fit(net, batches, loss, compute, lr_schedule=schedule, weight_decay=_WEIGHT_DECAY)


def classifier_network(shape: tuple[int, int, int], classes: int) -> ConvNet:
    """An initialized classifier of images (C, H, W)."""
    return ConvNet(shape, lambda size: nn.Linear(size, classes), dropout=0.2)


def train_classifier(
    net: ConvNet, images: Images, plan: TrainingPlan, compute: ComputeConfig
) -> Generator[float, None, None]:
    """Train a classifier on images translated by up to 1/14 of their side.

    Args:
        net: initialized.
        images: training images with labels.
        plan: steps and batch size.
        compute: device and precision.

    Yields:
        The loss after each step.
    """

    def loss(batch: Batch) -> Tensor:
        assert batch.labels is not None
        x = to_float(_translated(batch.pixels).to(compute.device)).contiguous(memory_format=compute.memory_format)
        with compute.autocast():
            _, logits = net(x)
        return F.cross_entropy(logits.float(), batch.labels.to(compute.device), label_smoothing=0.05)

    yield from train_network(net, images, plan, compute, loss)


def _translated(pixels: Tensor) -> Tensor:
    """A batch translated by one random offset; the border is replicated."""
    largest = max(pixels.shape[-2:]) * _SHIFT // 28
    if not largest:
        return pixels
    down, across = torch.randint(2 * largest + 1, (2,)).tolist()
    padded = F.pad(pixels.float(), (largest,) * 4, mode="replicate").to(torch.uint8)
    return padded[..., down : down + pixels.shape[-2], across : across + pixels.shape[-1]]


def accuracy(net: ConvNet, images: Images, compute: ComputeConfig) -> float:
    """Fraction of images that are classified correctly."""
    assert images.labels is not None
    correct = 0
    for ids in torch.arange(len(images)).split(_TEST_BATCH):
        x = to_float(images.get(ids).to(compute.device)).contiguous(memory_format=compute.memory_format)
        with torch.inference_mode():
            correct += int((net(x)[1].argmax(1).cpu() == images.labels[ids]).sum())
    return correct / len(images)
