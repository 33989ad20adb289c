"""Sources of images to evaluate: a model that samples, image files of any program, or real images."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import Tensor, nn

from fromnoise.config import SamplingConfig
from fromnoise.data import Images, Shape, StreamedImages, open_source, shuffled_indices
from fromnoise.data.dataset import open_image
from fromnoise.data.decoding import display_size
from fromnoise.model import AutoencoderModel, Model
from fromnoise.pipeline import Samples, SampleStep, check_finite, sample_steps
from fromnoise.pipeline.sample_parts import SampleParts
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class SamplingCost:
    """Cost of sampling, and of the training before it.

    Attributes:
        nfe: network evaluations per image, as counted.
        seconds_per_image: on this machine, in batches.
        flops_per_image: additions and multiplications, as torch counts them.
        parameters: of the network.
        training_seconds: from the run's reports; None without reports.
        training_images: images seen in training; None without reports.
    """

    nfe: float
    seconds_per_image: float
    flops_per_image: float
    parameters: int
    training_seconds: float | None = None
    training_images: int | None = None


M = TypeVar("M", Model, Model | AutoencoderModel)


class ImageSource(ABC):
    """Images to evaluate, in batches.

    Attributes:
        name: in tables and figures.
        count: number of images.
        strata: stratum of each image, int64 (N,), where the numbers of images in the strata are fixed; None for i.i.d.
            images.
    """

    name: str
    count: int
    strata: Tensor | None = None

    @abstractmethod
    def batches(self) -> Iterator[Tensor]:
        """Uint8 (B, C, H, W) each, ``count`` images in all; the same images at each call."""

    @property
    def cost(self) -> SamplingCost | None:
        """The cost of sampling, after ``batches``; None for images that are not sampled here."""
        return None

    @property
    def model(self) -> Model | AutoencoderModel | None:
        """The model that samples; None for images that are not sampled here."""
        return None

    @property
    def sampling(self) -> SamplingConfig | None:
        """How the model samples; None for images that are not sampled here."""
        return None

    def estimated_seconds(self) -> float:
        """Estimated duration of ``batches``, by a short trial."""
        return 0.0


@final
class RealImages(ImageSource):
    """Images of a data set or of files, in a random order."""

    def __init__(
        self,
        name: str,
        images: Images,
        count: int | None = None,
        seed: int = 0,
        batch: int = 512,
        groups: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> None:
        """Take the first ``count`` images in the order of ``seed``, or a fixed number of each group.

        Args:
            name: in tables and figures.
            images: the data set.
            count: number of images; all by default.
            seed: of the order.
            batch: images per batch.
            groups: group of each image of the data set, int64 (N,).
            sizes: number of images of each group, with ``groups`` in place of ``count``.

        Raises:
            ValueError: a group has fewer images.
        """
        self._images, self._batch = images, batch
        self._order = shuffled_indices(len(images), seed, range(len(images)))
        if groups is None or sizes is None:
            self._order = self._order[: count or len(images)]
        else:
            self._order, self.strata = _stratified(self._order, groups, sizes)
        self.name, self.count = name, len(self._order)

    @property
    def shape(self) -> Shape:
        """(C, H, W) of the images."""
        return self._images.shape

    def get(self, indices: Tensor) -> Tensor:
        """Images by their index in this order, uint8 (B, C, H, W)."""
        return self._images.get(self._order[indices])

    def batches(self) -> Iterator[Tensor]:
        """See ``ImageSource``."""
        for indices in self._order.split(self._batch):
            yield self._images.get(indices)


def _stratified(order: Tensor, groups: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The first ``sizes[g]`` images of each group g in an order, in that order, and their groups.

    Raises:
        ValueError: a group has fewer images.
    """
    ordered = groups[order]
    rank = torch.zeros(len(order), dtype=torch.int64)
    for group in sizes.nonzero().flatten().tolist():
        member = ordered == group
        if int(member.sum()) < int(sizes[group]):
            raise ValueError(f"group {group} has {int(member.sum())} images, fewer than {int(sizes[group])}")
        rank[member] = torch.arange(int(member.sum()))
    kept = rank < sizes[ordered]
    return order[kept], ordered[kept]


def open_samples(spec: str, shape: Shape, resize: bool = False) -> Images:
    """Image files of any program, as images of a given shape.

    Args:
        spec: a folder, .zip, .npz, .npy or .parquet, as for training.
        shape: (C, H, W) of the reference.
        resize: whether images of another size may be resized.

    Raises:
        UserError: they cannot be read, or have another size.
    """
    source = open_source(spec)
    if len(source) == 0:
        raise UserError(f"'{spec}' contains no images")
    with open_image(source, 0) as image:
        height, width = display_size(image)
    if (height, width) != shape[1:] and not resize:
        raise UserError(
            f"the images of {spec} are {height}x{width} and the real images {shape[1]}x{shape[2]}: "
            f"compare them at one size with --size {height}"
        )
    return StreamedImages(source, torch.arange(len(source)), shape)


@dataclass(frozen=True)
class ProcessGroup:
    """Processes that share the sampling.

    Attributes:
        rank: of this process.
        world: number of processes.
        gather: from this process's batch (B, ...) to the batches of all in order of rank, (world B, ...).
    """

    rank: int = 0
    world: int = 1
    gather: Callable[[Tensor], Tensor] = lambda batch: batch


def first_with_data(models: Sequence[M]) -> M:
    """The model whose recipe says which images are real: the first that records its training data, or the first."""
    return next((model for model in models if model.recipe.data.source), models[0])


def has_pseudo_labels(model: Model | AutoencoderModel) -> bool:
    """Whether samples without a label get pseudo-labels."""
    return getattr(model.module, "pseudo_labels", None) is not None and not model.dataset_info.is_conditional


@final
class ModelSource(ImageSource):
    """Samples of a model; several processes sample a part of each batch."""

    def __init__(
        self,
        name: str,
        model: Model | AutoencoderModel,
        config: SamplingConfig,
        compute: ComputeConfig,
        count: int,
        *,
        seed: int = 0,
        label: str | None = None,
        batch: int = 64,
        training: tuple[float, int] | None = None,
        processes: ProcessGroup | None = None,
        stratified: bool = False,
        parts: SampleParts | None = None,
    ) -> None:
        """Prepare to sample from a model.

        Args:
            name: in tables.
            model: on the device of ``compute`` and in eval mode.
            config: sampler, steps and guidance.
            compute: device and precision.
            count: number of samples.
            seed: of all noise.
            label: class of the samples, as ``pipeline`` takes it; by default a model with classes cycles through all.
            batch: samples per batch and process.
            training: seconds of the training and images seen, if known.
            processes: that share the sampling.
            stratified: whether pseudo-labels are stratified over their weights, as in ``fromnoise sample``, or i.i.d.,
                as real images are.
            parts: finished batches of a command that was interrupted, in a folder that all processes share.

        Raises:
            UserError: the sampling config or the label is impossible for this model.
        """
        self.name, self.count = name, count
        self._model, self._config, self._compute, self._seed, self._batch = model, config, compute, seed, batch
        self._label = label if label is not None or model.dataset_info.class_names is None else "all"
        self._training, self._processes = training, processes or ProcessGroup()
        self._parts, self._evaluations, self._sampled, self._elapsed = parts, 0, 0, 0.0
        self._stratified = stratified and self._has_pseudo_labels
        if self._stratified:
            self.strata = model.default_labels(torch.arange(count), seed)
        elif self._label == "all" and model.dataset_info.class_names is not None:
            self.strata = torch.arange(count) % len(model.dataset_info.class_names)
        self._steps(torch.arange(0))  # raises now, not at the first batch

    def batches(self) -> Iterator[Tensor]:
        """See ``ImageSource``."""
        self._evaluations, self._sampled, self._elapsed, first = 0, 0, 0.0, 0
        while first < self.count:
            found = self._parts.load_with_cost(first) if self._parts is not None else None
            if found is None or not len(found[0].images):
                images = self._shared_batch(first)
            else:
                images, cost = found[0].images, found[1]
                self._evaluations += int(cost.get("evaluations", 0))
                self._sampled += int(cost.get("sampled", 0))
                self._elapsed += cost.get("seconds", 0.0)
            first += len(images)
            yield images

    def _shared_batch(self, first: int) -> Tensor:
        """Sample a batch of every process, from sample ``first`` on."""
        each, world, rank, before = self._batch, self._processes.world, self._processes.rank, self._evaluations
        size = min(each, -(-(self.count - first) // world))  # per process; the last one may sample too many
        start = time.perf_counter()
        images = self._processes.gather(self._sample(first + size * rank + torch.arange(size)))[: self.count - first]
        seconds = time.perf_counter() - start
        self._elapsed += seconds
        self._sampled += size
        if self._parts is not None and rank == 0:
            cost = {"evaluations": self._evaluations - before, "sampled": size, "seconds": seconds}
            self._parts.save(first, Samples(images.cpu(), None), cost)
        return images

    def _sample(self, ids: Tensor) -> Tensor:
        handle = self._model.network.register_forward_hook(self._count_evaluations)
        try:
            images = []
            for sample in self._steps(ids):
                if sample.last:
                    check_finite(sample.step.x)
                    images.append(sample.images)
            return torch.cat(images)
        finally:
            handle.remove()

    @property
    def _has_pseudo_labels(self) -> bool:
        return self._label is None and has_pseudo_labels(self._model)

    def _steps(self, ids: Tensor) -> Iterator[SampleStep]:
        label: str | Tensor | None = self._label
        if self._has_pseudo_labels:
            label = self._model.default_labels(ids, self._seed, self._stratified)
        batch = max(1, len(ids))
        return sample_steps(
            self._model, self._config, self._compute, ids=ids, seed=self._seed, label=label, batch=batch
        )

    def _count_evaluations(self, net: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._evaluations += len(inputs[0])

    @property
    def cost(self) -> SamplingCost | None:
        """See ``ImageSource``."""
        if not self._evaluations:
            return None
        nfe = self._evaluations / self._sampled
        return SamplingCost(
            nfe,
            self._elapsed / self.count,
            nfe * self._flops(),
            self._model.parameters,
            *(self._training or (None, None)),
        )

    @property
    def model(self) -> Model | AutoencoderModel:
        """See ``ImageSource``."""
        return self._model

    @property
    def sampling(self) -> SamplingConfig:
        """See ``ImageSource``."""
        return self._config

    @torch.inference_mode()
    def _flops(self) -> float:
        """FLOPs of one network evaluation for one image."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self._model.evaluate_once(self._compute.device)
        return float(counter.get_total_flops())

    def estimated_seconds(self) -> float:
        """See ``ImageSource``: the duration of a batch's second step, times the steps and batches."""
        steps = self._steps(torch.arange(min(self._batch, self.count)))
        first = next(steps).step
        start = time.perf_counter()
        second = next(steps, None)
        if second is not None:
            float(second.step.x.sum())  # waits for a GPU
        rounds = -(-self.count // (self._batch * self._processes.world))
        return (time.perf_counter() - start) * first.total * rounds
