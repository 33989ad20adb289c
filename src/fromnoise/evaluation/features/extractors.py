"""What images are compared by: a number of features of each, from the pixels to a network's last layer."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from fromnoise import checkpoint
from fromnoise.data import Data, to_float
from fromnoise.data.download import cache_folder
from fromnoise.evaluation.features import convnet, simclr
from fromnoise.utils.device import ComputeConfig, select_device
from fromnoise.utils.errors import UserError

_PIXELS = 1024  # features of the pixels, at most

Log = Callable[[str], None]
OnProgress = Callable[[int, int], object]
"""Takes how many steps are done and how many there are."""


@dataclass(frozen=True)
class FeatureBatch:
    """What a feature extractor says of images.

    Attributes:
        features: float64 (N, D).
        probabilities: of the classes, float64 (N, K); None where it knows none.
    """

    features: Tensor
    probabilities: Tensor | None = None


class Features(ABC):
    """A map from images to vectors, the same for an image wherever it stands in a batch.

    Attributes:
        name: what a result calls these features.
        about: them in a few words, for a report.
        size: D, how many there are of an image.
        labels: names of the classes of the reference, where it knows their probabilities; else None.
    """

    name: str
    about: str
    size: int
    labels: tuple[str, ...] | None = None

    @abstractmethod
    def see(self, images: Tensor) -> FeatureBatch:
        """Features of one batch, and probabilities where classes are known.

        Args:
            images: uint8 (B, C, H, W).
        """

    def all(self, images: Tensor, batch: int = 256) -> FeatureBatch:
        """The same of many images, batch by batch.

        Args:
            images: uint8 (N, C, H, W).
            batch: images at a time.
        """
        seen = [self.see(part) for part in images.split(batch)]
        known = [s.probabilities for s in seen if s.probabilities is not None]
        return FeatureBatch(torch.cat([s.features for s in seen]), torch.cat(known) if known else None)

    @final
    def of(self, images: Tensor) -> Tensor:
        """Features, float64 (N, D), of uint8 (N, C, H, W)."""
        return self.all(images).features

    @final
    def probabilities(self, images: Tensor) -> Tensor:
        """Of the classes, float64 (N, K), of uint8 (N, C, H, W).

        Raises:
            UserError: these features know no classes.
        """
        known = self.all(images).probabilities
        if known is None:
            raise UserError(f"{self.name} features know no classes: take those of a classifier")
        return known


@final
class Pixels(Features):
    """The pixels themselves in [0, 1], averaged over squares until there are at most 1,024 of an image."""

    name = "pixels"

    def __init__(self, shape: tuple[int, int, int]) -> None:
        """For images of this shape (C, H, W)."""
        channels, height, width = shape
        self.shape, self.square = shape, 1
        while channels * -(-height // self.square) * -(-width // self.square) > _PIXELS:
            self.square += 1
        self.size = channels * -(-height // self.square) * -(-width // self.square)
        self.about = f"the pixels, averaged over squares of {self.square}" if self.square > 1 else "the pixels"

    def see(self, images: Tensor) -> FeatureBatch:
        """See ``Features``."""
        x = images.double() / 255
        if self.square > 1:
            x = F.avg_pool2d(x, self.square, ceil_mode=True)  # what hangs over the border is not averaged in
        return FeatureBatch(x.flatten(1))


class Learned(Features):
    """The last hidden layer of a small network trained on the reference itself."""

    size = convnet.SIZE

    def __init__(self, net: convnet.ConvNet, compute: ComputeConfig) -> None:
        """Take a trained network, in eval mode."""
        self._net, self._compute = compute.to_device(net).eval(), compute

    @final
    def told(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and what the head says, float64 (B, .) each; in float32 whatever the precision of the rest."""
        x = to_float(images.to(self._compute.device)).contiguous(memory_format=self._compute.memory_format)
        with torch.inference_mode():
            features, head = self._net(x)
        return features.double().cpu(), head.double().cpu()


@final
class Classifier(Learned):
    """Of a classifier of the labelled reference.

    Attributes:
        accuracy: on held-out images.
        labels: names of the classes.
    """

    name = "classifier"

    def __init__(self, net: convnet.ConvNet, labels: tuple[str, ...], accuracy: float, compute: ComputeConfig) -> None:
        """Take a trained network, the classes, and how well it tells them."""
        super().__init__(net, compute)
        self.labels, self.accuracy = labels, accuracy
        self.about = f"a classifier of the training images, accuracy {accuracy:.2%} on held-out ones"

    def see(self, images: Tensor) -> FeatureBatch:
        """See ``Features``."""
        features, logits = self.told(images)
        return FeatureBatch(features, logits.softmax(1))


@final
class SelfSupervised(Learned):
    """Of a network that tells the images of the reference from one another, without labels.

    Attributes:
        mark: share of held-out images that it tells from 255 others by another view.
    """

    name = "self-supervised"

    def __init__(self, net: convnet.ConvNet, mark: float, compute: ComputeConfig) -> None:
        """Take a trained network, and how well it tells images apart."""
        super().__init__(net, compute)
        self.mark = mark
        self.about = f"a network of ours, trained without labels, that tells {mark:.1%} of held-out images from others"

    def see(self, images: Tensor) -> FeatureBatch:
        """See ``Features``."""
        return FeatureBatch(self.told(images)[0])


def pixels(data: Data) -> Pixels:
    """The pixels, for images as these."""
    return Pixels(data.shape)


def classifier(
    data: Data,
    *,
    compute: ComputeConfig | None = None,
    log: Log = lambda line: None,
    on_step: OnProgress = lambda done, total: None,
) -> Classifier:
    """A classifier of the reference set: from the cache, else trained on it in a minute or two and kept.

    Args:
        data: labelled; the network learns from ``data.train`` and is tested on ``data.held_out``.
        compute: where; the best there is if left out.
        log: takes a line that says what was done, with the accuracy.
        watch: called after each step of training.

    Raises:
        UserError: the images have no labels, or the cache cannot be written.
    """
    if data.class_names is None or data.train.labels is None:
        raise UserError("a classifier needs labels, and these images have none: take --features self-supervised")
    compute, classes = compute or select_device(), data.class_names
    config = _Training(
        "classifier",
        convnet.VERSION,
        convnet.TrainingPlan.of(len(data.train)).steps,
        lambda: convnet.classifier(data.shape, len(classes)),
        lambda net: convnet.fit(net, data.train, convnet.TrainingPlan.of(len(data.train)), compute),
        lambda net: convnet.accuracy(net, data.held_out, compute),
    )
    kept = _trained(config, data, on_step)
    learned = Classifier(kept.net, classes, kept.mark, compute)
    log(f"features of {learned.about} ({kept.path})")
    return learned


def self_supervised(
    data: Data,
    *,
    compute: ComputeConfig | None = None,
    log: Log = lambda line: None,
    on_step: OnProgress = lambda done, total: None,
) -> SelfSupervised:
    """A network that learns from the reference set without labels: from the cache, else trained and kept.

    Args:
        data: as of ``classifier``, its labels unused.
        compute: where; the best there is if left out.
        log: takes a line that says what was done.
        watch: called after each step of training.

    Raises:
        UserError: the cache cannot be written.
    """
    compute = compute or select_device()
    config = _Training(
        "self-supervised",
        simclr.VERSION,
        simclr.plan(data.train).steps,
        lambda: simclr.network(data.shape),
        lambda net: simclr.fit(net, data.train, compute),
        lambda net: simclr.mark(net, data.held_out, compute),
    )
    kept = _trained(config, data, on_step)
    learned = SelfSupervised(kept.net, kept.mark, compute)
    log(f"features of {learned.about} ({kept.path})")
    return learned


# ---- networks that are kept


@dataclass(frozen=True)
class _Training:
    """How a kind of network comes about: made, trained in so many steps, and marked on held-out images."""

    kind: str
    version: int
    steps: int
    fresh: Callable[[], convnet.ConvNet]
    fit: Callable[[convnet.ConvNet], Iterator[float]]
    mark: Callable[[convnet.ConvNet], float]


@dataclass(frozen=True)
class _Kept:
    """A trained network, how good it is, and where it lies."""

    net: convnet.ConvNet
    mark: float
    path: Path


def _trained(config: _Training, data: Data, on_step: OnProgress) -> _Kept:
    """A network of a set from the cache; else trained, marked and kept."""
    path = _place(config, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = config.fresh()
    mark = _read(path, net)
    if mark is None:
        for done, _ in enumerate(config.fit(net), 1):
            on_step(done, config.steps)
        mark = config.mark(net)
        checkpoint.write(path, net.state_dict(), {"kind": config.kind, "mark": mark})
    return _Kept(net, mark, path)


def _place(config: _Training, data: Data) -> Path:
    """Where the network of a set lies: another set, split or way of training is another file."""
    count = len(data.train)
    some = data.train.get(torch.linspace(0, count - 1, min(64, count)).long())  # the split is not in the fingerprint
    dataset_info = (data.fingerprint, data.shape, data.class_names, count, config.version, some.numpy().tobytes())
    return cache_folder() / config.kind / f"{hashlib.sha256(repr(dataset_info).encode()).hexdigest()[:20]}.safetensors"


def _read(path: Path, net: convnet.ConvNet) -> float | None:
    """Fill a network from the cache; its mark, or None where there is no whole file."""
    if not path.exists():
        return None
    try:
        tensors, header = checkpoint.read(path)
        net.load_state_dict(tensors)
        return float(header["mark"])
    except (checkpoint.DamagedFile, RuntimeError, KeyError):
        return None
