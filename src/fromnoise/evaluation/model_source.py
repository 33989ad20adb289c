"""Samples of a model as a source of images to evaluate, shared by several processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from fromnoise.config import SamplingConfig
from fromnoise.evaluation.sources import ImageSource, SamplingCost
from fromnoise.model import AutoencoderModel, Model
from fromnoise.pipeline import Samples, SampleStep, check_finite, sample_steps
from fromnoise.pipeline.sample_parts import SampleParts
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


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


def has_pseudo_labels(model: Model | AutoencoderModel) -> bool:
    """Whether samples without a label get pseudo-labels."""
    return getattr(model.module, "pseudo_labels", None) is not None and not model.dataset_info.is_conditional


@final
class ModelSource(ImageSource):
    """Samples of a model; several processes sample a batch each."""

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
            batch: samples per batch; processes take turns.
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
        """See ``ImageSource``; in all processes but the first, only what is sampled now."""
        self._evaluations, self._sampled, self._elapsed = 0, 0, 0.0
        finished = self._finished()
        missing = [number for number, done in enumerate(finished) if not done]
        sampled: dict[int, Tensor] = {}
        for number, done in enumerate(finished):
            if done:
                if self._processes.rank == 0:
                    yield self._finished_batch(number)
                continue
            if number not in sampled:
                sampled = self._sample_together(missing[: self._processes.world])
                del missing[: self._processes.world]
            yield sampled.pop(number)

    def _finished(self) -> list[bool]:
        """Whether each batch is among the parts, as the first process finds them."""
        count = -(-self.count // self._batch)
        done = torch.zeros(count, dtype=torch.uint8)
        if self._parts is None:
            return [False] * count
        if self._processes.rank == 0:
            done = torch.tensor([self._parts.load(number) is not None for number in range(count)], dtype=torch.uint8)
        return self._processes.gather(done)[:count].bool().tolist()

    def _finished_batch(self, number: int) -> Tensor:
        found = self._parts.load_with_cost(number) if self._parts is not None else None
        if found is None:
            raise UserError(f"batch {number} of {self.name} is no longer in its folder: give the same command again")
        samples, cost = found
        self._evaluations += int(cost.get("evaluations", 0))
        self._sampled += int(cost.get("sampled", 0))
        self._elapsed += cost.get("seconds", 0.0)
        return samples.images

    def _sample_together(self, numbers: Sequence[int]) -> dict[int, Tensor]:
        """Sample a batch in each process, as a whole, so that no sample depends on the number of processes.

        Args:
            numbers: of the batches, at most one for each process.

        Returns:
            Images by the number of the batch, in all processes.
        """
        rank, before, start = self._processes.rank, self._evaluations, time.perf_counter()
        padded = torch.zeros((self._batch, *self._model.dataset_info.shape), dtype=torch.uint8)
        sizes = [min(self._batch, self.count - self._batch * number) for number in numbers]
        if rank < len(numbers):
            padded[: sizes[rank]] = self._sample(self._batch * numbers[rank] + torch.arange(sizes[rank]))
        gathered = self._processes.gather(padded).split(self._batch)
        images = {number: batch[:size] for number, batch, size in zip(numbers, gathered, sizes, strict=False)}
        seconds = time.perf_counter() - start
        self._elapsed += seconds
        self._sampled += sizes[0]
        if self._parts is not None and rank == 0:
            cost = {"evaluations": self._evaluations - before, "sampled": sizes[0], "seconds": seconds}
            for number in numbers:  # the first process knows its own cost, that of the first of them
                self._parts.save(number, Samples(images[number], None), cost if number == numbers[0] else {})
        return images

    def _sample(self, ids: Tensor) -> Tensor:
        weak = getattr(self._model.module, "weak_network", None)  # that of autoguidance
        networks = [self._model.network] if weak is None else [self._model.network, weak]
        handles = [network.register_forward_hook(self._count_evaluations) for network in networks]
        try:
            images = []
            for sample in self._steps(ids):
                if sample.last:
                    check_finite(sample.step.x)
                    images.append(sample.images)
            return torch.cat(images)
        finally:
            for handle in handles:
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
