"""A small encoder that learns clusters by one rule: an image and the same image slightly moved belong together.

Invariant information clustering (Ji et al. 2019): the mutual information between the clusters of the two views is
maximised, which makes them agree (views), be sure (conditional entropy) and be used evenly (marginal entropy) at once.
From nothing this is slow to begin and ends where it happens to; so the first lessons say what k-means says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.clustering.baselines import kmeans
from fromnoise.data import BatchStream, Images, to_float
from fromnoise.utils.device import ComputeConfig

SIZE = 128
"""Features of an image."""
_HEADS = 8  # heads learned side by side: they differ by their beginnings, and the best is kept
_FINER = 5  # a second set of heads sorts into so many times as many clusters: it teaches the trunk more
_SHIFT, _TURN, _SCALE, _SHEAR = 0.07, math.radians(20), 0.2, 0.2  # of half a side; the gentler view has a quarter
_HINTED = 0.2  # share of the steps that learn from k-means
_HINTS = 10_000  # images that k-means sees, at most
_REMEMBER = 0.98  # of the running mean of the heads' information
_EVALUATE = 500


class Encoder(nn.Module):
    """Three strided convolutions, ``SIZE`` features, and heads that say clusters."""

    information: Tensor

    def __init__(self, shape: tuple[int, int, int], clusters: int) -> None:
        """Make the layers.

        Args:
            shape: (C, H, W) of the images.
            clusters: Q.
        """
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for out, kernel in ((24, 5), (48, 3), (64, 3)):
            stride = 2 if max(height, width) > 4 else 1
            layers += [
                nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            channels, height, width = out, -(-height // stride), -(-width // stride)
        while max(height, width) > 4:
            layers += [nn.Conv2d(channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            height, width = -(-height // 2), -(-width // 2)
        inner = channels * height * width
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inner, SIZE, bias=False), nn.BatchNorm1d(SIZE))
        self.clusters = clusters
        self.heads = nn.Linear(SIZE, _HEADS * clusters)
        self.finer = nn.Linear(SIZE, _HEADS * _FINER * clusters)
        self.register_buffer("information", torch.zeros(_HEADS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, SIZE), and the clusters' probabilities by each head, (B, heads, Q) and (B, heads, finer Q)."""
        features = F.relu(self.trunk(x))
        coarse = self.heads(features).unflatten(1, (_HEADS, -1)).softmax(-1)
        return features, coarse, self.finer(features).unflatten(1, (_HEADS, -1)).softmax(-1)


@dataclass(frozen=True)
class Hints:
    """What k-means says, for each head another time; -1 of images that it did not see.

    Attributes:
        coarse: int64 (N, heads), below Q.
        finer: the same with so many times as many clusters.
    """

    coarse: Tensor
    finer: Tensor

    @staticmethod
    def of(points: Tensor, clusters: int, seed: int) -> Hints:
        """From principal components (N, D), N at least ``clusters``."""
        ids = torch.linspace(0, len(points) - 1, min(_HINTS, len(points))).round().long()
        some = points[ids]

        def told(count: int, times: int) -> Tensor:
            found = [kmeans(some, min(count, len(some)), seed + 1000 * i, tries=1) for i in range(times)]
            part = torch.stack(found, 1).repeat(1, _HEADS // times)
            return torch.full((len(points), _HEADS), -1).index_copy_(0, ids, part)

        return Hints(told(clusters, _HEADS), told(_FINER * clusters, 2))


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder says of images.

    Attributes:
        features: float32 (N, SIZE).
        q: probabilities by its most informed head, float64 (N, Q).
    """

    features: Tensor
    q: Tensor


def learn(
    encoder: Encoder,
    images: Images,
    compute: ComputeConfig,
    *,
    steps: int,
    batch: int,
    hints: Hints | None = None,
    seed: int = 0,
    lr: float = 3e-3,
) -> Iterator[float]:
    """Teach an encoder; yields the information of its best head, in nats, at most log Q, after each step.

    Args:
        encoder: fresh.
        images: their labels are not looked at.
        compute: where.
        steps: of the optimiser.
        batch: pairs a step.
        hints: what the first fifth of the steps learns; None has none.
        seed: of the order and of the views.
        lr: learning rate; it falls to 0 over the second half.
    """
    compute.to_device(encoder).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr, weight_decay=1e-3)
    stream = BatchStream(images, seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50, 2 * (1 - step / steps))
        drawn = stream.batch(range(step * batch, (step + 1) * batch))
        x = to_float(drawn.pixels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((seed << 24) + step)
            views = torch.cat([moved(x, 0.25), moved(x, 1.0)])
        _, coarse, finer = encoder(views.to(compute.device).contiguous(memory_format=compute.memory_format))
        told = information(*coarse.chunk(2))
        if hints is not None and step < _HINTED * steps:
            loss = _wrong(coarse, hints.coarse[drawn.indices]) + _wrong(finer, hints.finer[drawn.indices])
        else:
            loss = -(told.mean() + information(*finer.chunk(2)).mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        encoder.information.lerp_(told.detach(), 1 - _REMEMBER)
        yield float(told.detach().max())
    encoder.eval()


def _wrong(said: Tensor, hints: Tensor) -> Tensor:
    """Cross-entropy of what the heads say of two views, (2B, heads, K), to hints (B, heads)."""
    right = hints.repeat(2, 1).flatten().to(said.device)
    return F.nll_loss(said.clamp(min=1e-6).log().flatten(0, 1), right, ignore_index=-1)


def information(p: Tensor, q: Tensor) -> Tensor:
    """Mutual information of the clusters of two views, nats, of each head (Ji et al. 2019, eq. 3), (heads,).

    Args:
        p: probabilities of one view, (B, heads, K).
        q: of the other.
    """
    joint = torch.einsum("bhi,bhj->hij", p, q) / len(p)
    joint = ((joint + joint.transpose(1, 2)) / 2).clamp(min=1e-8)
    return (joint * (joint.log() - joint.sum(1, keepdim=True).log() - joint.sum(2, keepdim=True).log())).sum((1, 2))


def moved(x: Tensor, strength: float) -> Tensor:
    """Each image shifted, turned, scaled and sheared at random; the border repeats.

    Args:
        x: images (B, C, H, W) on the CPU.
        strength: 1 is up to 7 % of a side, 20 degrees, 20 %.
    """
    turn, scale, shear, right, down = (torch.rand(5, len(x)) * 2 - 1) * strength
    turn, scale, shear = turn * _TURN, 1 + scale * _SCALE, shear * _SHEAR
    first = torch.stack([scale * turn.cos(), shear - scale * turn.sin(), 2 * _SHIFT * right], 1)
    second = torch.stack([scale * turn.sin(), scale * turn.cos(), 2 * _SHIFT * down], 1)
    where = F.affine_grid(torch.stack([first, second], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, where, padding_mode="border", align_corners=False)


@torch.inference_mode()
def see(encoder: Encoder, images: Images, compute: ComputeConfig) -> EncoderOutput:
    """Features and clusters of all images."""
    best, features, said = int(encoder.information.argmax()), [], []
    for ids in torch.arange(len(images)).split(_EVALUATE):
        x = to_float(images.get(ids).to(compute.device)).contiguous(memory_format=compute.memory_format)
        seen, coarse, _ = encoder(x)
        features.append(seen.cpu())
        said.append(coarse[:, best].cpu().double())
    return EncoderOutput(torch.cat(features), torch.cat(said))
