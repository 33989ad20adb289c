"""Learn the time steps and coefficients of the sampler, by gradients through all steps.

The weights of the network stay as they are. A batch of samples from fresh noise is compared with training images by a
kernel distance in features of the denoiser itself (``features.py``), and its gradient goes through every evaluation to
the few numbers of ``parameters.py``, as in Watson et al. 2022 ("Learning fast samplers for diffusion models by
differentiating through sample quality").
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fromnoise.config import SamplingConfig
from fromnoise.data import Data, shuffled_indices
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.diffusion.denoiser import Denoise, Prediction
from fromnoise.diffusion.rng import Noise
from fromnoise.diffusion.samplers import Sampler, TunedSteps
from fromnoise.diffusion.sampling import initial_noise, sampling_loop
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.model import Model
from fromnoise.tuning.features import DenoiserFeatures, KernelDistance
from fromnoise.tuning.parameters import StepParameters
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

SEED = 0x74756E65
"""Seed of the noise of tuning, so that no sample of a usual seed was seen."""
ITERATIONS = 240
"""Optimizer steps."""
BATCH = 64
"""Samples in an iteration."""
REAL = 4096
"""Training images with which samples are compared, at most."""
MOST_STEPS = 100
"""Steps of which coefficients can be learned, at most."""
_CHECKED = 512  # samples of other noise by which tuned and untuned steps are compared
_CHECKED_FIRST = 1 << 40  # number of the first of these samples
_LR, _CLIP, _WARMUP = 0.03, 1.0, 5
_KEPT_ACTIVATIONS = 8 * 64 * 32 * 32  # steps x batch x pixels above which activations are computed again


@dataclass(frozen=True)
class TuningStep:
    """Yielded by ``tune`` after each iteration.

    Attributes:
        iteration: iterations done.
        total: of all iterations.
        distance: kernel distance of the batch; it can be negative.
    """

    iteration: int
    total: int
    distance: float


@dataclass(frozen=True)
class Tuned:
    """Yielded by ``tune`` at its end.

    Attributes:
        steps: the learned numbers; None if they are not better than those at the start.
        before: kernel distance of samples of other noise before tuning.
        after: of the same noise after it.
    """

    steps: TunedSteps | None
    before: float
    after: float


def tune(
    model: Model,
    data: Data,
    compute: ComputeConfig,
    steps: int,
    *,
    iterations: int = ITERATIONS,
    batch: int = BATCH,
    seed: int = SEED,
) -> Generator[TuningStep | Tuned, None, None]:
    """Learn the sampler for a number of steps.

    Args:
        model: on ``compute.device`` and in eval mode.
        data: its training images.
        compute: device and precision.
        steps: number of steps, one evaluation of the network each.
        iterations: optimizer steps.
        batch: samples in each.
        seed: of the noise and of the choice of images.

    Returns:
        A generator of ``TuningStep``, and of ``Tuned`` at the end.

    Raises:
        UserError: when called: images of another shape, too few of them, or impossible steps.
    """
    if data.shape != model.dataset_info.shape:
        raise UserError(
            f"the model has images of shape {model.dataset_info.shape}, the data {data.shape}: "
            "use --data with images of the model's shape"
        )
    if len(data.train) < 2:
        raise UserError("tuning compares samples with training images: there must be at least 2")
    if not 1 <= steps <= MOST_STEPS:
        raise UserError(f"--steps {steps}: choose from 1 to {MOST_STEPS}")
    config = model.recipe.sample.model_copy(update={"steps": steps, "guidance": 1.0, "tuned": False})
    try:
        parameters = StepParameters(model.schedule, model.levels(config))
    except ValueError as error:
        raise UserError(f"sample.grid of the recipe: {error}; leave it out") from None
    return _Tuning(model, data, compute, config, parameters, batch, seed).run(iterations)


class _Tuning:
    """What an iteration needs."""

    def __init__(
        self,
        model: Model,
        data: Data,
        compute: ComputeConfig,
        config: SamplingConfig,
        parameters: StepParameters,
        batch: int,
        seed: int,
    ) -> None:
        self._model, self._data, self._compute, self._seed = model, data, compute, seed
        self._parameters, self._batch, self._config = parameters, batch, config
        self._shape = model.shape(None)
        pixels = math.prod(self._shape[1:])
        self._recompute = parameters.steps * batch * pixels > _KEPT_ACTIVATIONS
        self._denoise = model.guided(config)

    def run(self, iterations: int) -> Generator[TuningStep | Tuned, None, None]:
        """See ``tune``."""
        features = DenoiserFeatures(self._model.denoiser, self._compute, self._shape, self._seed)
        distance = KernelDistance(features, self._real())
        before = self._check(distance)
        wanted = [p.requires_grad for p in self._model.denoiser.parameters()]
        self._model.denoiser.requires_grad_(False)
        try:
            yield from self._optimize(distance, iterations)
        finally:
            for parameter, value in zip(self._model.denoiser.parameters(), wanted, strict=True):
                parameter.requires_grad_(value)
        after = self._check(distance)
        try:
            found = self._parameters.frozen() if after < before else None
        except ValueError:
            found = None
        yield Tuned(found, before, after)

    def _optimize(self, distance: KernelDistance, iterations: int) -> Iterator[TuningStep]:
        optimizer = torch.optim.Adam(self._parameters.parameters(), _LR, betas=(0.9, 0.95))
        for i in range(iterations):
            for group in optimizer.param_groups:
                group["lr"] = _LR * min(1.0, (i + 1) / _WARMUP) * (1 + math.cos(math.pi * i / iterations)) / 2
            ids = torch.arange(i * self._batch, (i + 1) * self._batch)
            value = distance(self._samples(ids), ids + REAL)
            optimizer.zero_grad()
            value.backward()
            norm = torch.nn.utils.clip_grad_norm_(self._parameters.parameters(), _CLIP)
            if bool(norm.isfinite()):
                optimizer.step()
            yield TuningStep(i + 1, iterations, value.item())

    def _real(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of training images, in the space of x_0, with their numbers."""
        images = self._data.train
        count = min(REAL, len(images))
        for ids in torch.arange(count).split(self._batch):
            chosen = torch.as_tensor(shuffled_indices(len(images), self._seed, ids))
            x0, _ = self._model.training_inputs(images.get(chosen), None, ids, self._compute)
            yield x0, ids

    def _condition(self, ids: Tensor) -> Tensor | None:
        """The condition of samples: stratified pseudo-labels, or the labels of training images."""
        model, labels = self._model, self._data.train.labels
        if not model.dataset_info.is_conditional:
            return model.default_labels(ids, self._seed)
        if labels is None:
            return conditioning_for(model.dataset_info, "all" if model.dataset_info.class_names else None, ids)
        return labels[torch.as_tensor(shuffled_indices(len(labels), self._seed, ids))]

    def _samples(self, ids: Tensor) -> Tensor:
        """Samples with the present numbers, (B, C, H, W)."""
        noise = self._model.noise(self._config, ids, self._seed)
        x = initial_noise(self._shape, noise, torch.empty(0, device=self._compute.device))
        x = x.contiguous(memory_format=self._compute.memory_format)
        cond = self._condition(ids)
        sampler, levels = self._parameters.sampler()
        on_device = cond.to(self._compute.device) if cond is not None else None
        return run_sampler(self._differentiable, sampler, levels, x, noise, on_device)

    def _differentiable(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        def evaluate(x: Tensor, previous: Tensor | None) -> Tensor:
            with self._compute.autocast():
                return self._denoise(x, level, cond, previous).x0

        if not self._recompute or not torch.is_grad_enabled():
            return Prediction(evaluate(x, previous))
        return Prediction(cast(Tensor, checkpoint(evaluate, x, previous, use_reentrant=False)))

    def _check(self, distance: KernelDistance) -> float:
        """The distance of samples of other noise."""
        with torch.no_grad():
            ids = torch.arange(_CHECKED_FIRST, _CHECKED_FIRST + _CHECKED)
            found = [distance.features(self._samples(part), part) for part in ids.split(self._batch)]
            return distance.of_features(torch.cat(found)).item()


def run_sampler(
    denoise: Denoise, sampler: Sampler, levels: list[NoiseLevel], x: Tensor, noise: Noise, cond: Tensor | None
) -> Tensor:
    """The samples at the end of the sampling loop, (B, C, H, W)."""
    for step in sampling_loop(denoise, sampler, levels, x, noise, cond):
        x = step.x
    return x
