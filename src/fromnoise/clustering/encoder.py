"""A small encoder that learns clusters without labels, by invariant information clustering (Ji et al. 2019).

An image and a randomly transformed copy of it belong to the same cluster. The encoder maximizes the mutual information
between the clusters of two such views, I = H(c) - H(c | other view): the clusters of the views agree, the assignments
are confident (conditional entropy) and the clusters are used evenly (marginal entropy). From random weights this
objective starts slowly and its result depends on the seed, so the first steps learn the assignments of k-means instead.

This is not the self-supervised network of ``evaluation/features/simclr.py``: that one separates every image from every
other one and must keep what a metric has to detect, while this one groups images and discards all but their cluster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.data import Batch, BatchStream, Images, to_float
from fromnoise.evaluation.features.convnet import affine_warp, conv_block
from fromnoise.utils import fitting
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.kmeans import kmeans

SIZE = 128
"""Features of an image."""
_HEADS = 8  # cluster heads trained together from different initial weights; the most informative one is used
_OVERCLUSTERING = 5  # a second set of heads has this many times as many clusters (auxiliary overclustering)
_SHIFT, _ROTATION, _SCALE, _SHEAR = 0.07, math.radians(20), 0.2, 0.2  # shift in fractions of a side
_WEAK = 0.25  # strength of the first view's transformation; the second view's is 1
_TARGET_STEPS = 0.2  # fraction of the steps that learn the k-means assignments
_TARGET_IMAGES = 10_000  # images that k-means clusters, at most
_INFORMATION_DECAY = 0.98  # of the moving average of each head's mutual information
_WARMUP, _WEIGHT_DECAY = 50, 1e-3
_EVALUATION_BATCH = 500


class Encoder(nn.Module):
    """Strided convolutions, ``SIZE`` features, and linear heads that assign clusters.

    Attributes:
        information: moving average of the mutual information of each head during training, nats, (heads,).
    """

    information: Tensor

    def __init__(self, shape: tuple[int, int, int], clusters: int) -> None:
        """Create the layers.

        Args:
            shape: (C, H, W) of the images.
            clusters: number of clusters, Q.
        """
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for out, kernel in ((24, 5), (48, 3), (64, 3)):
            stride = 2 if max(height, width) > 4 else 1
            layers += conv_block(channels, out, kernel, stride)
            channels, height, width = out, -(-height // stride), -(-width // stride)
        while max(height, width) > 4:
            layers += conv_block(channels, channels, 3, 2)
            height, width = -(-height // 2), -(-width // 2)
        inner = channels * height * width
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inner, SIZE, bias=False), nn.BatchNorm1d(SIZE))
        self.clusters = clusters
        self.heads = nn.Linear(SIZE, _HEADS * clusters)
        self.finer = nn.Linear(SIZE, _HEADS * _OVERCLUSTERING * clusters)
        self.register_buffer("information", torch.zeros(_HEADS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, SIZE), cluster probabilities (B, heads, Q) and overclustering probabilities (B, heads, 5 Q)."""
        features = F.relu(self.trunk(x))
        coarse = self.heads(features).unflatten(1, (_HEADS, -1)).softmax(-1)
        return features, coarse, self.finer(features).unflatten(1, (_HEADS, -1)).softmax(-1)


@dataclass(frozen=True)
class KMeansTargets:
    """K-means assignments that the heads learn first: another k-means run for each head; -1 where there is none.

    Attributes:
        coarse: clusters for the Q-cluster heads, int64 (N, heads).
        finer: clusters for the overclustering heads, int64 (N, heads).
    """

    coarse: Tensor
    finer: Tensor

    @staticmethod
    def from_points(points: Tensor, clusters: int, seed: int) -> KMeansTargets:
        """Run k-means on principal components (N, D), with N at least ``clusters``."""
        ids = torch.linspace(0, len(points) - 1, min(_TARGET_IMAGES, len(points))).round().long()
        subset = points[ids]

        def assignments(count: int, runs: int) -> Tensor:
            labels = [kmeans(subset, min(count, len(subset)), seed + 1000 * i).labels for i in range(runs)]
            columns = torch.stack(labels, 1).repeat(1, _HEADS // runs)
            return torch.full((len(points), _HEADS), -1).index_copy_(0, ids, columns)

        return KMeansTargets(assignments(clusters, _HEADS), assignments(_OVERCLUSTERING * clusters, 2))


@dataclass(frozen=True)
class EncoderOutput:
    """Features and clusters of images.

    Attributes:
        features: float32 (N, SIZE).
        q: cluster probabilities by the most informative head, float64 (N, Q).
    """

    features: Tensor
    q: Tensor


@dataclass(frozen=True)
class _Views:
    """Two views of each image of a batch.

    Attributes:
        step: number of the training step, from 0.
        pixels: the weakly transformed views, then the strongly transformed ones, (2B, C, H, W).
        indices: of the images, int64 (B,).
    """

    step: int
    pixels: Tensor
    indices: Tensor


def train(
    encoder: Encoder,
    images: Images,
    compute: ComputeConfig,
    *,
    steps: int,
    batch: int,
    targets: KMeansTargets | None = None,
    seed: int = 0,
    lr: float = 3e-3,
) -> Iterator[float]:
    """Train an encoder.

    Args:
        encoder: with its initial weights.
        images: training images; their labels are not used.
        compute: device.
        steps: number of optimizer steps.
        batch: pairs of views in a step.
        targets: k-means assignments that the first fifth of the steps learns; None for none.
        seed: seed of the order of the images and of the views.
        lr: highest learning rate; it falls to 0 over the second half.

    Yields:
        The loss after each step, nats.
    """
    batches = enumerate(islice(BatchStream(images, seed).iterate(0, batch), steps))
    views = (_views_of(step, taken, seed) for step, taken in batches)

    def loss(pair: _Views) -> Tensor:
        x = pair.pixels.to(compute.device).contiguous(memory_format=compute.memory_format)
        _, coarse, finer = encoder(x)
        information = mutual_information(*coarse.chunk(2))
        encoder.information.lerp_(information.detach(), 1 - _INFORMATION_DECAY)
        if targets is not None and pair.step < _TARGET_STEPS * steps:
            return _cross_entropy(coarse, targets.coarse[pair.indices]) + _cross_entropy(
                finer, targets.finer[pair.indices]
            )
        return -(information.mean() + mutual_information(*finer.chunk(2)).mean())

    schedule = fitting.lr_by_step(lambda step: lr * min(1.0, (step + 1) / _WARMUP, 2 * (1 - step / steps)))
    yield from fitting.fit(encoder, views, loss, compute, lr_schedule=schedule, weight_decay=_WEIGHT_DECAY)


def _views_of(step: int, batch: Batch, seed: int) -> _Views:
    x = to_float(batch.pixels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed << 24) + step)
        return _Views(step, torch.cat([random_affine(x, _WEAK), random_affine(x, 1.0)]), batch.indices)


def _cross_entropy(p: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the probabilities of two views, (2B, heads, K), with targets (B, heads); -1 is ignored."""
    target = targets.repeat(2, 1).flatten().to(p.device)
    return F.nll_loss(p.clamp(min=1e-6).log().flatten(0, 1), target, ignore_index=-1)


def mutual_information(p: Tensor, q: Tensor) -> Tensor:
    """Mutual information of the clusters of two views for each head, nats, (heads,) (Ji et al. 2019, eq. 3).

    Args:
        p: cluster probabilities of the first views, (B, heads, K).
        q: cluster probabilities of the second views, (B, heads, K).
    """
    joint = torch.einsum("bhi,bhj->hij", p, q) / len(p)
    joint = ((joint + joint.transpose(1, 2)) / 2).clamp(min=1e-8)
    return (joint * (joint.log() - joint.sum(1, keepdim=True).log() - joint.sum(2, keepdim=True).log())).sum((1, 2))


def random_affine(x: Tensor, strength: float) -> Tensor:
    """Shift, rotate, scale and shear each image at random; outside the image the border repeats.

    Args:
        x: images (B, C, H, W) on the CPU.
        strength: 1 is up to 7 % of a side, 20 degrees, a scale of 20 % and a shear of 0.2; 0 is the identity.
    """
    rotation, scale, shear, right, down = (torch.rand(5, len(x)) * 2 - 1) * strength
    rotation, scale, shear = rotation * _ROTATION, 1 + scale * _SCALE, shear * _SHEAR
    first = torch.stack([scale * rotation.cos(), shear - scale * rotation.sin(), 2 * _SHIFT * right], 1)
    second = torch.stack([scale * rotation.sin(), scale * rotation.cos(), 2 * _SHIFT * down], 1)
    return affine_warp(x, torch.stack([first, second], 1))


@torch.inference_mode()
def encode(encoder: Encoder, images: Images, compute: ComputeConfig) -> EncoderOutput:
    """Features and cluster probabilities of all images."""
    best, features, q = int(encoder.information.argmax()), [], []
    for ids in torch.arange(len(images)).split(_EVALUATION_BATCH):
        x = to_float(images.get(ids).to(compute.device)).contiguous(memory_format=compute.memory_format)
        part, coarse, _ = encoder(x)
        features.append(part.cpu())
        q.append(coarse[:, best].cpu().double())
    return EncoderOutput(torch.cat(features), torch.cat(q))
