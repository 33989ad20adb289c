"""Features of a small network that is trained on the reference images themselves, and kept in a cache."""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from fromnoise import checkpoint
from fromnoise.data import Data, to_float
from fromnoise.data.download import cache_folder
from fromnoise.evaluation.features import convnet, simclr
from fromnoise.evaluation.features.extractor import FeatureBatch, FeatureExtractor
from fromnoise.utils.device import ComputeConfig, select_device
from fromnoise.utils.errors import UserError

Log = Callable[[str], None]
OnStep = Callable[[int, int], object]
"""Called with the number of steps done and their total."""
_TRIAL_STEPS, _TRIAL_IMAGES = 4, 64  # from which durations are estimated


class ConvNetFeatures(FeatureExtractor):
    """The last hidden layer of a small network trained on the reference images."""

    dim = convnet.DIM

    def __init__(self, net: convnet.ConvNet, compute: ComputeConfig) -> None:
        """Wrap a trained network."""
        self._net, self._compute = compute.to_device(net).eval(), compute

    @final
    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and outputs of the head, float64 (B, .) each; computed in float32 whatever ``compute`` says."""
        x = to_float(images.to(self._compute.device)).contiguous(memory_format=self._compute.memory_format)
        with torch.inference_mode():
            features, head = self._net(x)
        return features.double().cpu(), head.double().cpu()


@final
class ClassifierFeatures(ConvNetFeatures):
    """Features of a classifier trained on the labelled reference images.

    Attributes:
        accuracy: on held-out images.
        class_names: of the data set.
    """

    name = "classifier"

    def __init__(
        self, net: convnet.ConvNet, class_names: tuple[str, ...], accuracy: float, compute: ComputeConfig
    ) -> None:
        """Wrap a trained network with its classes and its accuracy."""
        super().__init__(net, compute)
        self.class_names, self.accuracy = class_names, accuracy
        self.description = f"a classifier of the training images, accuracy {accuracy:.2%} on held-out images"

    def extract(self, images: Tensor) -> FeatureBatch:
        """See ``FeatureExtractor``."""
        features, logits = self.embed(images)
        return FeatureBatch(features, logits.softmax(1))


@final
class SelfSupervisedFeatures(ConvNetFeatures):
    """Features of a network trained on the reference images by SimCLR, without labels.

    Attributes:
        retrieval_accuracy: fraction of held-out images that are retrieved among 256 by another view of them.
    """

    name = "self-supervised"

    def __init__(self, net: convnet.ConvNet, retrieval_accuracy: float, compute: ComputeConfig) -> None:
        """Wrap a trained network with its retrieval accuracy."""
        super().__init__(net, compute)
        self.retrieval_accuracy = retrieval_accuracy
        self.description = (
            f"a network trained by SimCLR on the training images, retrieval accuracy {retrieval_accuracy:.1%} "
            "on held-out images"
        )

    def extract(self, images: Tensor) -> FeatureBatch:
        """See ``FeatureExtractor``."""
        return FeatureBatch(self.embed(images)[0])


def classifier_features(
    data: Data,
    *,
    compute: ComputeConfig | None = None,
    log: Log = lambda line: None,
    on_step: OnStep = lambda done, total: None,
) -> ClassifierFeatures:
    """A classifier of the data set, from the cache or trained in a minute or two.

    Args:
        data: with labels; the network is trained on ``data.train`` and tested on ``data.held_out``.
        compute: device and precision; the best available by default.
        log: called with a line that describes the features.
        on_step: called after each training step.

    Raises:
        UserError: the images have no labels, or the cache cannot be written.
    """
    if data.class_names is None or data.train.labels is None:
        raise UserError("a classifier needs labels, and these images have none: use --features self-supervised")
    compute = compute or select_device()
    trained = _load_or_train(_classifier(data, compute), data, on_step)
    features = ClassifierFeatures(trained.net, data.class_names, trained.accuracy, compute)
    log(f"features: {features.description} ({trained.path})")
    return features


def self_supervised_features(
    data: Data,
    *,
    compute: ComputeConfig | None = None,
    log: Log = lambda line: None,
    on_step: OnStep = lambda done, total: None,
) -> SelfSupervisedFeatures:
    """A network trained on the data set by SimCLR, from the cache or trained in a minute or two.

    Args:
        data: as of ``classifier_features``; its labels are not used.
        compute: device and precision; the best available by default.
        log: called with a line that describes the features.
        on_step: called after each training step.

    Raises:
        UserError: the cache cannot be written.
    """
    compute = compute or select_device()
    trained = _load_or_train(_self_supervised(data, compute), data, on_step)
    features = SelfSupervisedFeatures(trained.net, trained.accuracy, compute)
    log(f"features: {features.description} ({trained.path})")
    return features


def preparation_seconds(kind: str, data: Data, reference: int, compute: ComputeConfig) -> float:
    """Estimated duration of ``classifier_features`` or ``self_supervised_features``, and of features of real images.

    A few steps of an untrained network are timed; they are not kept.

    Args:
        kind: ``classifier`` or ``self-supervised``.
        data: of the features; with labels for ``classifier``.
        reference: number of images whose features are computed.
        compute: device and precision.

    Returns:
        Seconds; without the training if the network is in the cache.
    """
    training = {"classifier": _classifier, "self-supervised": _self_supervised}[kind](data, compute)
    net, seconds = _initial(training), 0.0
    if _load(_cache_path(training, data), net) is None:
        times = [time.perf_counter()]
        with contextlib.closing(training.fit(net)) as losses:
            for _ in zip(range(_TRIAL_STEPS), losses, strict=False):
                times.append(time.perf_counter())
        steps = [after - before for before, after in pairwise(times)]
        seconds = statistics.median(steps[1:] or steps) * training.steps  # the first step prepares
    images = data.train.get(torch.arange(min(_TRIAL_IMAGES, len(data.train))))
    compute.to_device(net).eval()
    start = time.perf_counter()
    with torch.inference_mode():
        net(to_float(images.to(compute.device)).contiguous(memory_format=compute.memory_format))
    return seconds + reference * (time.perf_counter() - start) / len(images)


# ---- networks and their cache


@dataclass(frozen=True)
class _Training:
    """A kind of network: how it is initialized, trained in ``steps`` steps, and tested on held-out images."""

    kind: str
    version: int
    steps: int
    initialize: Callable[[], convnet.ConvNet]
    fit: Callable[[convnet.ConvNet], Generator[float, None, None]]
    test: Callable[[convnet.ConvNet], float]


def _classifier(data: Data, compute: ComputeConfig) -> _Training:
    plan = convnet.TrainingPlan.for_images(len(data.train))
    return _Training(
        "classifier",
        convnet.VERSION,
        plan.steps,
        lambda: convnet.classifier_network(data.shape, len(data.class_names or ())),
        lambda net: convnet.train_classifier(net, data.train, plan, compute),
        lambda net: convnet.accuracy(net, data.held_out, compute),
    )


def _self_supervised(data: Data, compute: ComputeConfig) -> _Training:
    return _Training(
        "self-supervised",
        simclr.VERSION,
        simclr.training_plan(data.train).steps,
        lambda: simclr.simclr_network(data.shape),
        lambda net: simclr.train_simclr(net, data.train, compute),
        lambda net: simclr.retrieval_accuracy(net, data.held_out, compute),
    )


@dataclass(frozen=True)
class _Trained:
    """A trained network, its accuracy on held-out images, and its file."""

    net: convnet.ConvNet
    accuracy: float
    path: Path


def _load_or_train(training: _Training, data: Data, on_step: OnStep) -> _Trained:
    """The network of a data set from the cache; otherwise trained, tested and saved."""
    path = _cache_path(training, data)
    net = _initial(training)
    accuracy = _load(path, net)
    if accuracy is None:
        with contextlib.closing(training.fit(net)) as losses:  # it restores torch's generator, however it ends
            for done, _ in enumerate(losses, 1):
                on_step(done, training.steps)
        accuracy = training.test(net)
        checkpoint.write(path, net.state_dict(), {"kind": training.kind, "accuracy": accuracy})
    return _Trained(net, accuracy, path)


def _initial(training: _Training) -> convnet.ConvNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return training.initialize()


def _cache_path(training: _Training, data: Data) -> Path:
    """File of the network of a data set; it differs for another split and for another version of the training."""
    count = len(data.train)
    some = data.train.get(torch.linspace(0, count - 1, min(64, count)).long())  # the split is not in the fingerprint
    key = (data.fingerprint, data.shape, data.class_names, count, training.version, some.numpy().tobytes())
    return cache_folder() / training.kind / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.safetensors"


def _load(path: Path, net: convnet.ConvNet) -> float | None:
    """Load weights from the cache and return the accuracy; None if there is no intact file."""
    if not path.exists():
        return None
    try:
        tensors, header = checkpoint.read(path)
        net.load_state_dict(tensors)
        return float(header["accuracy"])
    except (UserError, RuntimeError, KeyError, TypeError, ValueError):
        return None
