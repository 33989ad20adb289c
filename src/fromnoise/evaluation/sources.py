"""Sources of images to evaluate: real images, image files of any program, and what every source has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.data import Images, Shape, StreamedImages, open_source, shuffled_indices
from fromnoise.data.dataset import open_image
from fromnoise.data.decoding import display_size
from fromnoise.model import AutoencoderModel, Model
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


def first_with_data(models: Sequence[M]) -> M:
    """The model whose recipe says which images are real: the first that records its training data, or the first."""
    return next((model for model in models if model.recipe.data.source), models[0])
