"""What the entries of the league share: the training images, the clock, and what is sampled afterwards.

What an example leaves to its reader is chosen in the library's favour: images lie decoded in memory, schedules that
are counted in steps are compressed into the budget, and of the averaged and the last weights, and of the samplers, the
best is taken (``league.py``). Images whose side a network cannot halve often enough are padded with black, and samples
are cropped. No library mirrors Fashion-MNIST; CIFAR-10 is mirrored where the example mirrors.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from foreign import foreign
from torch import Tensor, nn

Sampler = Callable[[int], Tensor]
"""Samples of a number of images, (N, C, H, W) in [-1, 1]."""


@dataclass(frozen=True)
class Task:
    """Training images, in memory.

    Attributes:
        source: name of the data set.
        pixels: uint8 (N, C, H, W).
        labels: classes, int64 (N,).
        seed: of the run.
    """

    source: str
    pixels: Tensor
    labels: Tensor
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def batches(self, size: int, *, flip: bool = False, side: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled full batches without end: images in [-1, 1], (B, C, H, W), and their labels, (B,).

        Args:
            size: images per batch.
            flip: whether the example mirrors images.
            side: pad images with black up to this side.
        """
        margin = max(0, side - self.pixels.shape[-1]) // 2
        while True:
            order = torch.randperm(len(self.pixels))
            for chosen in order[: len(order) - len(order) % size].split(size):
                x = self.pixels[chosen].float().div(127.5).sub(1)
                if flip and self.source == "cifar10":
                    mirrored = torch.rand(len(x)) < 0.5
                    x[mirrored] = x[mirrored].flip(-1)
                yield nn.functional.pad(x, (margin,) * 4, value=-1.0) if margin else x, self.labels[chosen]


class Budget:
    """The clock of training steps, which starts with the first step."""

    def __init__(self, seconds: float) -> None:
        """Begin with nothing used."""
        self.seconds, self.used, self._start = seconds, 0.0, None

    def left(self) -> bool:
        """Whether another step may begin; to be called before each step, and once after the last."""
        self._start = self._start or time.perf_counter()
        self.used = time.perf_counter() - self._start
        return self.used < self.seconds

    @property
    def fraction(self) -> float:
        """The part of the budget that is used, in [0, 1]."""
        return min(1.0, self.used / self.seconds)


@dataclass
class Trained:
    """What is left after the budget.

    Attributes:
        network: whose calls are evaluations.
        steps: optimizer steps.
        images: training images seen.
        seconds: duration of the steps.
        samplers: by name of weights and sampler.
        precision: of training and sampling; empty: bfloat16 if the entry says so.
    """

    network: nn.Module
    steps: int
    images: int
    seconds: float
    samplers: dict[str, Sampler] = field(default_factory=dict)
    precision: str = ""

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.network.parameters() if p.requires_grad)


def accelerator(bf16: bool) -> Any:
    """The accelerator of examples that use one, with their option ``mixed_precision``."""
    return foreign("accelerate").Accelerator(cpu=True, mixed_precision="bf16" if bf16 else "no")


def crop(x: Tensor, side: int) -> Tensor:
    """The middle of images, (N, C, side, side)."""
    margin = (x.shape[-1] - side) // 2
    return x[..., margin : margin + side, margin : margin + side]


def with_weights(network: nn.Module, weights: nn.Module | None, sampler: Sampler) -> Sampler:
    """The sampler of a network that has the weights of another one meanwhile."""
    kept = copy.deepcopy((weights or network).state_dict())

    def sample(count: int) -> Tensor:
        network.load_state_dict(kept)
        network.eval()
        return sampler(count)

    return sample
