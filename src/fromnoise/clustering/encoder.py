"""A small encoder that learns features without labels, by contrastive learning (SimCLR: Chen et al. 2020).

Two random views of an image (``views.py``) have similar embeddings, views of different images do not. The features
before the projection head lie near separate curved surfaces, which a graph of nearest neighbours finds (``graph.py``)
and k-means does not.

This is not the network of ``evaluation/features/simclr.py``: a metric must detect noise, brightness and small
displacements, which the views here make invisible.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.clustering.views import random_view
from fromnoise.data import Batch, BatchStream, Images, to_float
from fromnoise.evaluation.features.convnet import conv_block
from fromnoise.evaluation.features.simclr import nt_xent
from fromnoise.utils import fitting
from fromnoise.utils.device import ComputeConfig

SIZE = 128
"""Features of an image."""
_EMBEDDING = 64  # outputs of the projection head
_WARMUP, _WEIGHT_DECAY = 50, 1e-3
_EVALUATION_BATCH = 500
_TIMED_STEPS = 4


class Encoder(nn.Module):
    """Strided convolutions, ``SIZE`` features, and a projection head (Chen et al. 2020, sec. 2.1)."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        """Create the layers.

        Args:
            shape: (C, H, W) of the images.
        """
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for out, kernel in ((48, 5), (96, 3), (128, 3)):
            stride = 2 if max(height, width) > 4 else 1
            layers += conv_block(channels, out, kernel, stride)
            channels, height, width = out, -(-height // stride), -(-width // stride)
        while max(height, width) > 4:
            layers += conv_block(channels, channels, 3, 2)
            height, width = -(-height // 2), -(-width // 2)
        inner = channels * height * width
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inner, SIZE, bias=False), nn.BatchNorm1d(SIZE))
        self.projection = nn.Sequential(nn.Linear(SIZE, SIZE), nn.ReLU(), nn.Linear(SIZE, _EMBEDDING))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features, (B, SIZE), and embeddings for the loss, (B, 64), of images (B, C, H, W) in [-1, 1]."""
        features = F.relu(self.trunk(x))
        return features, self.projection(features)


def train(
    encoder: Encoder,
    images: Images,
    compute: ComputeConfig,
    *,
    steps: int,
    batch: int,
    seed: int = 0,
    lr: float = 3e-3,
) -> Iterator[float]:
    """Train an encoder.

    Args:
        encoder: with its initial weights.
        images: training images; their labels are not used.
        compute: device and precision.
        steps: number of optimizer steps.
        batch: pairs of views in a step.
        seed: of the order of the images and of the views.
        lr: highest learning rate; it falls to 0 over the second half.

    Yields:
        The loss after each step, nats.
    """
    batches = enumerate(islice(BatchStream(images, seed).iterate(0, batch), steps))

    def loss(numbered: tuple[int, Batch]) -> Tensor:
        x = two_views(numbered[1].pixels, (seed << 24) + numbered[0]).to(compute.device)
        with compute.autocast():
            embeddings = encoder(x.contiguous(memory_format=compute.memory_format))[1]
        return nt_xent(embeddings.float())

    schedule = fitting.lr_by_step(lambda step: lr * min(1.0, (step + 1) / _WARMUP, 2 * (1 - step / steps)))
    yield from fitting.fit(encoder, batches, loss, compute, lr_schedule=schedule, weight_decay=_WEIGHT_DECAY)


def affordable_steps(images: Images, compute: ComputeConfig, batch: int, seconds: float) -> int:
    """How many steps of ``train`` take about this long, by the time of a few steps of another encoder; at least 1."""
    with torch.random.fork_rng(devices=[]):
        steps = train(Encoder(images.shape), images, compute, steps=_TIMED_STEPS + 1, batch=batch)
        next(steps)  # the first has the start-up of the kernels
        start = time.monotonic()
        count = sum(1 for _ in steps)
    return max(1, int(seconds * count / max(time.monotonic() - start, 1e-9)))


def two_views(pixels: Tensor, seed: int) -> Tensor:
    """The first views of all images, uint8 (B, C, H, W), then the second ones, (2B, C, H, W)."""
    x = to_float(pixels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return random_view(x.repeat(2, 1, 1, 1))


@torch.inference_mode()
def encode(encoder: Encoder, images: Images, compute: ComputeConfig) -> Tensor:
    """Features of all images, of length 1, float32 (N, SIZE)."""
    parts = []
    for ids in torch.arange(len(images)).split(_EVALUATION_BATCH):
        x = to_float(images.get(ids).to(compute.device)).contiguous(memory_format=compute.memory_format)
        parts.append(F.normalize(encoder(x)[0], dim=1).cpu())
    return torch.cat(parts)
