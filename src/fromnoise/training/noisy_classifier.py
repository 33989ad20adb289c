"""A classifier of noisy images, learned for guidance: from a model's schedule and labelled data to one file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise import checkpoint
from fromnoise.data import Batch, BatchStream, Data, to_float
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.denoiser import TimestepConditioning
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.model import Model
from fromnoise.networks import NoisyClassifier
from fromnoise.utils import fitting
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


class Guide(nn.Module):
    """A classifier on the clock of a model: ``guide(x, level)`` gives logits (B, K)."""

    def __init__(self, dataset_info: DatasetInfo, steps: int | None) -> None:
        """Make one with fresh weights.

        Args:
            facts: shape and labels.
            steps: T of the model's table, None if it is continuous.
        """
        super().__init__()
        self.dataset_info = dataset_info
        self.net = NoisyClassifier(dataset_info.shape[0], len(dataset_info.class_names or ()))
        self.clock = TimestepConditioning(steps or 1000)

    def forward(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """Logits."""
        return self.net(x, self.clock.value(level).to(x.device, torch.float32).expand(len(x)))


@dataclass(frozen=True)
class Lesson:
    """What ``learn`` yields after each step: its number, and the loss in nats."""

    step: int
    loss: float


def begin(model: Model, data: Data) -> Guide:
    """A guide for a model, not yet taught.

    Raises:
        UserError: the data have no labels, or are of another shape.
    """
    if data.class_names is None:
        raise UserError("a classifier needs data with labels: put the images of each class in a folder of its own")
    if data.shape != model.dataset_info.shape:
        raise UserError(f"the model draws images of {model.dataset_info.shape} and the data are of {data.shape}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.recipe.train.seed)
        return Guide(replace(model.dataset_info, class_names=data.class_names, attributes=None), model.schedule.steps)


def learn(
    guide: Guide, model: Model, data: Data, compute: ComputeConfig, *, steps: int, batch: int = 128, lr: float = 2e-3
) -> Iterator[Lesson]:
    """Teach a guide: cross-entropy under the model's noise at its own times, AdamW, the rate falling to 0."""
    stream = BatchStream(data.train, model.recipe.train.seed, model.recipe.data.flip)

    def loss(taken: Batch) -> Tensor:
        assert taken.labels is not None  # ``begin`` has checked it
        return _loss(guide, model, taken.pixels, taken.labels, taken.positions, compute).mean()

    schedule = fitting.lr_by_step(lambda step: lr * (1 - step / steps) * min(1.0, (step + 1) / 50))
    batches = islice(stream.iterate(0, batch), steps)
    values = fitting.fit(guide, batches, loss, compute, lr_schedule=schedule, weight_decay=0.01)
    for step, value in enumerate(values, 1):
        yield Lesson(step, value)


def _loss(
    guide: Guide, model: Model, pixels: Tensor, labels: Tensor, positions: Tensor, compute: ComputeConfig
) -> Tensor:
    """Cross-entropy of each image, (B,)."""
    x0 = to_float(pixels.to(compute.device)).contiguous(memory_format=compute.memory_format)
    noise = Noise(model.recipe.train.seed, positions)
    level = model.schedule.at(model.schedule.time_from_uniform(noise.uniform(Stream.TIME)), like=x0)
    with compute.autocast():
        logits = guide(level.noisy(x0, noise.image(tuple(x0.shape[1:]), Stream.EPS, like=x0)), level)
    return F.cross_entropy(logits.float(), labels.to(compute.device), reduction="none")


def save(path: Path, guide: Guide, model: Model) -> None:
    """Write a guide, and of which model's schedule it is.

    Raises:
        UserError: it cannot be written.
    """
    header = {"kind": "guide", **checkpoint.model_header(model.recipe, guide.dataset_info)}
    checkpoint.write(path, guide.net.state_dict(), header)


def load(path: Path, model: Model) -> Guide:
    """A guide for a model.

    Raises:
        UserError: there is none, or it is of other images, another schedule or other labels than the model.
    """
    if not path.exists():
        raise UserError(f"there is no classifier {str(path)!r}: fromnoise guide makes one")
    tensors, header = checkpoint.read(path)
    if header.get("kind") != "guide":
        raise UserError(f"{path} is no classifier of noisy images: fromnoise guide makes one")
    recipe, dataset_info = checkpoint.parse_header(header)
    if dataset_info.shape != model.dataset_info.shape or recipe.diffusion != model.recipe.diffusion:
        raise UserError(f"the classifier {path} was made for a model of other images or noise: make one for this model")
    if model.dataset_info.class_names not in (None, dataset_info.class_names):
        raise UserError(f"the classifier {path} knows other labels than the model: make one for this model")
    guide = Guide(dataset_info, model.schedule.steps)
    guide.net.load_state_dict(tensors)
    return guide.eval().requires_grad_(False)
