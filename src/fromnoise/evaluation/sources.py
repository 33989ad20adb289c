"""What is judged: a model that draws, pictures that some program left, or real images."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from fromnoise.config import SamplingConfig
from fromnoise.data import Images, Shape, StreamedImages, open_source, shuffled_indices, to_uint8
from fromnoise.data.dataset import open_image
from fromnoise.data.decoding import display_size
from fromnoise.model import Model
from fromnoise.pipeline import SampleStep, draw
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class Cost:
    """What drawing takes, and what training took.

    Attributes:
        evaluations: of the network for one image.
        seconds: for one image on this machine, in batches.
        flops: for one image: additions and multiplications, as torch counts them.
        parameters: of the network.
        training_seconds: by the run's reports; None where there are none.
        training_images: seen in training; None where there are no reports.
    """

    evaluations: float
    seconds: float
    flops: float
    parameters: int
    training_seconds: float | None = None
    training_images: int | None = None


class ImageSource(ABC):
    """Images to be judged, in batches.

    Attributes:
        name: in tables and pictures.
        count: how many images come.
    """

    name: str
    count: int

    @abstractmethod
    def batches(self) -> Iterator[Tensor]:
        """Uint8 (B, C, H, W) each, ``count`` in all; the same ones each time."""

    @property
    def cost(self) -> Cost | None:
        """What they cost, once they have been drawn; None where that is not known."""
        return None

    @property
    def model(self) -> Model | None:
        """Which draws them; None where they lie there."""
        return None

    def seconds(self) -> float:
        """What ``batches`` will take, by a short trial."""
        return 0.0


@final
class RealImages(ImageSource):
    """Real images, or such as were read like them, in a random order."""

    def __init__(self, name: str, images: Images, count: int | None = None, seed: int = 0, batch: int = 512) -> None:
        """Take the first ``count`` of an order."""
        self.name, self.count = name, min(len(images), count or len(images))
        self._images, self._seed, self._batch = images, seed, batch

    @property
    def shape(self) -> Shape:
        """(C, H, W) of the images."""
        return self._images.shape

    def get(self, numbers: Tensor) -> Tensor:
        """Images by their number in this order, uint8 (B, C, H, W)."""
        every = shuffled_indices(len(self._images), self._seed, range(self.count))
        return self._images.get(every[numbers])

    def batches(self) -> Iterator[Tensor]:
        """See ``ImageSource``."""
        for start in range(0, self.count, self._batch):
            places = range(start, min(self.count, start + self._batch))
            yield self._images.get(shuffled_indices(len(self._images), self._seed, places))


def pictures_of(spec: str, shape: Shape, resize: bool = False) -> Images:
    """Pictures that any program left, as images of a shape.

    Args:
        spec: a folder, .zip, .npz, .npy or .parquet, as for training.
        shape: (C, H, W) of the reference.
        resize: whether pictures of another size may be resized.

    Raises:
        UserError: they cannot be read, or are of another size.
    """
    source = open_source(spec)
    if len(source) == 0:
        raise UserError(f"'{spec}' holds no images")
    with open_image(source, 0) as picture:
        height, width = display_size(picture)
    if (height, width) != shape[1:] and not resize:
        raise UserError(
            f"the pictures of {spec} are {height}x{width} and the real ones {shape[1]}x{shape[2]}: "
            f"compare at one size with --size {height}"
        )
    return StreamedImages(source, torch.arange(len(source)), shape)


@dataclass(frozen=True)
class Processes:
    """Those that share the drawing.

    Attributes:
        rank: number of this one.
        world: how many there are.
        gather: from this process's batch (B, ...) to that of all, (world B, ...), in the order of their numbers.
    """

    rank: int = 0
    world: int = 1
    gather: Callable[[Tensor], Tensor] = lambda batch: batch


@final
class ModelSource(ImageSource):
    """A model that draws; several processes share the work, each drawing part of each batch."""

    def __init__(
        self,
        name: str,
        model: Model,
        config: SamplingConfig,
        compute: ComputeConfig,
        count: int,
        *,
        seed: int = 0,
        label: str | None = None,
        batch: int = 64,
        training: tuple[float, int] | None = None,
        processes: Processes | None = None,
    ) -> None:
        """Take a model, placed and in eval mode.

        Args:
            name: in tables.
            model: that draws.
            how: rule, steps, guidance.
            compute: where and how precisely.
            count: of pictures.
            seed: of all noise.
            label: as ``draw`` takes it; left out, a model that knows classes is dealt all of them in turn.
            batch: pictures at a time and process.
            training: seconds and images of the training, where known.
            processes: that share the work.

        Raises:
            UserError: as ``draw``.
        """
        self.name, self.count = name, count
        self._model, self._how, self._compute, self._seed, self._batch = model, config, compute, seed, batch
        self._label = label if label is not None or model.dataset_info.class_names is None else "all"
        self._training, self._processes = training, processes or Processes()
        self._seen, self._spent = 0, 0.0
        self._steps(torch.arange(0))  # tells mistakes at once

    def batches(self) -> Iterator[Tensor]:
        """See ``ImageSource``."""
        self._seen, self._spent = 0, 0.0
        each, world = self._batch, self._processes.world
        for first in range(0, self.count, each * world):
            size = min(each, -(-(self.count - first) // world))  # of each process, the last of which may draw too many
            mine = first + size * self._processes.rank + torch.arange(size)
            begun = time.perf_counter()
            images = self._processes.gather(self._draw(mine))[: self.count - first]
            self._spent += time.perf_counter() - begun
            yield images

    def _draw(self, ids: Tensor) -> Tensor:
        handle = self._model.denoiser.network.register_forward_hook(self._count)
        try:
            return torch.cat([to_uint8(drawn.step.x) for drawn in self._steps(ids) if drawn.last])
        finally:
            handle.remove()

    def _steps(self, ids: Tensor) -> Iterator[SampleStep]:
        batch = max(1, len(ids))
        return draw(self._model, self._how, self._compute, ids=ids, seed=self._seed, label=self._label, batch=batch)

    def _count(self, net: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen += len(inputs[0])

    @property
    def cost(self) -> Cost | None:
        """See ``ImageSource``."""
        if not self._seen:
            return None
        drawn = -(-self.count // self._processes.world)
        return Cost(
            self._seen / drawn,
            self._spent / self.count,
            self._seen / drawn * self._flops(),
            self._model.parameters,
            *(self._training or (None, None)),
        )

    @property
    def model(self) -> Model:
        """See ``ImageSource``."""
        return self._model

    @torch.inference_mode()
    def _flops(self) -> float:
        """Of one evaluation for one image."""
        from torch.utils.flop_counter import FlopCounterMode

        model, device = self._model, self._compute.device
        x = torch.zeros(1, *model.dataset_info.shape, device=device)
        told = torch.zeros(1, dtype=torch.int64, device=device) if model.dataset_info.class_names is not None else None
        with FlopCounterMode(display=False) as counter:
            model.denoiser(x, model.schedule.at(0.5, like=x), told)
        return float(counter.get_total_flops())

    def seconds(self) -> float:
        """See ``ImageSource``: the second step of one batch, times the steps and batches."""
        steps = self._steps(torch.arange(min(self._batch, self.count)))
        first = next(steps).step
        begun = time.perf_counter()
        second = next(steps, None)
        if second is not None:
            float(second.step.x.sum())  # waits for a GPU
        rounds = -(-self.count // (self._batch * self._processes.world))
        return (time.perf_counter() - begun) * first.total * rounds
