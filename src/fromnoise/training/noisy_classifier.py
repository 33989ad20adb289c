"""Train, save and load a classifier of noisy images for classifier guidance (Dhariwal and Nichol 2021)."""

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
from fromnoise.diffusion.noise_conditioning import TimestepConditioning
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.model import Model
from fromnoise.networks import NoisyClassifier, kernels
from fromnoise.utils import fitting
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

_KIND = "noisy-classifier"  # in the header of the file
_WARMUP_STEPS = 50


class NoiseLevelClassifier(nn.Module):
    """p(class | x_t) at the noise levels of a model: ``classifier(x, level)`` returns logits (B, K)."""

    def __init__(self, dataset_info: DatasetInfo, timesteps: int | None) -> None:
        """Build the network with random weights.

        Args:
            dataset_info: shape and classes.
            timesteps: T of the model's schedule, None if it is continuous.
        """
        super().__init__()
        self.dataset_info = dataset_info
        self.network = NoisyClassifier(dataset_info.shape[0], len(dataset_info.class_names or ()))
        self.noise_conditioning = TimestepConditioning(timesteps or 1000)

    def forward(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """Logits (B, K) of noisy images x_t (B, C, H, W) at a level."""
        t = self.noise_conditioning.value(level).to(x.device, torch.float32)
        return self.network(x, t.expand(len(x)))


@dataclass(frozen=True)
class ClassifierStep:
    """Yielded by ``train_classifier`` after each step.

    Attributes:
        step: optimizer steps done.
        loss: cross-entropy in nats.
    """

    step: int
    loss: float


def build_classifier(model: Model, data: Data) -> NoiseLevelClassifier:
    """An untrained classifier for the schedule of a model and the classes of a data set.

    Raises:
        UserError: the data have no labels, or images of another shape than the model's.
    """
    model.require_pixels("classifier guidance")
    if data.class_names is None:
        raise UserError("a classifier needs labeled data: put the images of each class in a folder of its own")
    if data.shape != model.dataset_info.shape:
        raise UserError(
            f"the model has images of shape {model.dataset_info.shape}, the data {data.shape}: "
            "use --data with images of the model's shape"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.recipe.train.seed)
        info = replace(model.dataset_info, class_names=data.class_names, attributes=None)
        return NoiseLevelClassifier(info, model.schedule.steps)


def train_classifier(
    classifier: NoiseLevelClassifier,
    model: Model,
    data: Data,
    compute: ComputeConfig,
    *,
    steps: int,
    batch: int = 128,
    lr: float = 2e-3,
) -> Iterator[ClassifierStep]:
    """Train with cross-entropy on images with the model's noise at uniform times; a generator of the steps.

    AdamW with weight decay 0.01, 50 steps of linear warm-up, and linear decay to 0.

    Args:
        classifier: trained in place.
        model: its schedule, seed and flips are used.
        data: labeled images.
        compute: device and precision.
        steps: number of optimizer steps.
        batch: batch size.
        lr: peak learning rate.
    """
    kernels.enable()
    stream = BatchStream(data.train, model.recipe.train.seed, model.recipe.data.flip)

    def loss(images: Batch) -> Tensor:
        assert images.labels is not None  # checked by build_classifier
        return _cross_entropy(classifier, model, images, images.labels, compute).mean()

    schedule = fitting.lr_by_step(lambda step: lr * (1 - step / steps) * min(1.0, (step + 1) / _WARMUP_STEPS))
    batches = islice(stream.iterate(0, batch), steps)
    losses = fitting.fit(classifier, batches, loss, compute, lr_schedule=schedule, weight_decay=0.01)
    for step, value in enumerate(losses, 1):
        yield ClassifierStep(step, value)


def _cross_entropy(
    classifier: NoiseLevelClassifier, model: Model, images: Batch, labels: Tensor, compute: ComputeConfig
) -> Tensor:
    """Cross-entropy of each image at a random time, (B,) nats."""
    x0 = to_float(images.pixels.to(compute.device)).contiguous(memory_format=compute.memory_format)
    noise = Noise(model.recipe.train.seed, images.positions)
    level = model.schedule.at(model.schedule.time_from_uniform(noise.uniform(Stream.TIME)), like=x0)
    with compute.autocast():
        logits = classifier(level.noisy(x0, noise.image(tuple(x0.shape[1:]), Stream.EPS, like=x0)), level)
    return F.cross_entropy(logits.float(), labels.to(compute.device), reduction="none")


def save_classifier(path: Path, classifier: NoiseLevelClassifier, model: Model) -> None:
    """Write a classifier, with the recipe of its model.

    Raises:
        UserError: the file cannot be written.
    """
    header = {"kind": _KIND, **checkpoint.model_header(model.recipe, classifier.dataset_info)}
    checkpoint.write(path, classifier.network.state_dict(), header)


def load_classifier(path: Path, model: Model) -> NoiseLevelClassifier:
    """Read a classifier and check that it fits a model.

    Raises:
        UserError: the file is missing or is no classifier, or its image shape, schedule or labels are not the model's.
    """
    if not path.exists():
        raise UserError(f"there is no classifier {str(path)!r}: train one with fromnoise guide")
    tensors, header = checkpoint.read(path)
    if header.get("kind") != _KIND:
        raise UserError(f"{path} is not a classifier of noisy images: train one with fromnoise guide")
    recipe, info = checkpoint.parse_header(header, path)
    remedy = "train one for this model with fromnoise guide"
    if info.shape != model.dataset_info.shape or recipe.diffusion != model.recipe.diffusion:
        raise UserError(f"the classifier {path} has another image shape or noise schedule than the model: {remedy}")
    if model.dataset_info.class_names not in (None, info.class_names):
        raise UserError(f"the classifier {path} has other labels than the model: {remedy}")
    classifier = NoiseLevelClassifier(info, model.schedule.steps)
    try:
        classifier.network.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(f"the weights in {path} do not fit a classifier of these images: {remedy}") from None
    return classifier.eval().requires_grad_(False)
