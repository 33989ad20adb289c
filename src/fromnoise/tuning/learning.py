"""Learn the time steps and coefficients of the sampler, by gradients through all steps.

The weights of the network stay as they are. Samples of few steps are compared with samples of many steps from the same
noise, by a perceptual distance in features of the denoiser itself (``features.py``), and the gradient goes through all
evaluations to the few numbers of ``parameters.py`` (Tong et al. 2025, "LD3"; Frankel et al. 2025, "S4S").
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fromnoise.config import SamplingConfig
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.samplers import DPMSolverPP, Sampler, TunedSteps
from fromnoise.diffusion.sampling import initial_noise, sampling_loop
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.model import Model
from fromnoise.tuning.features import DenoiserFeatures, PerceptualDistance
from fromnoise.tuning.parameters import StepParameters
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

SEED = 0x74756E65
"""Seed of the noise of tuning, so that no sample of a usual seed was seen."""
ITERATIONS = 160
"""Optimizer steps."""
BATCH = 32
"""Samples in an iteration."""
SAMPLES = 512
"""Samples of the teacher, which are used in turn."""
TEACHER = 20
"""Least number of steps of the teacher where none is given; twice the tuned steps if that is more."""
MOST_STEPS = 100
"""Steps of which coefficients can be learned, at most."""
_CHECKED = 128  # samples of other noise by which tuned and untuned steps are compared
_CHECKED_FIRST = 1 << 40  # number of the first of these samples
_LR, _CLIP, _WARMUP = 0.03, 1.0, 5
_KEPT_ACTIVATIONS = 8 * 64 * 32 * 32  # steps x batch x pixels above which activations are computed again


@dataclass(frozen=True)
class TuningStep:
    """Yielded by ``tune`` after each iteration.

    Attributes:
        iteration: iterations done.
        total: of all iterations.
        distance: perceptual distance of the batch to the teacher's samples.
    """

    iteration: int
    total: int
    distance: float


@dataclass(frozen=True)
class Tuned:
    """Yielded by ``tune`` at its end.

    Attributes:
        steps: the learned numbers; None if they are not better than those at the start.
        before: perceptual distance of samples of other noise to the teacher's before tuning.
        after: of the same noise after it.
    """

    steps: TunedSteps | None
    before: float
    after: float


def tune(
    model: Model,
    compute: ComputeConfig,
    steps: int,
    *,
    teacher: int | None = None,
    guidance: float | None = None,
    iterations: int = ITERATIONS,
    batch: int = BATCH,
    seed: int = SEED,
) -> Generator[TuningStep | Tuned, None, None]:
    """Learn the sampler for a number of steps.

    Args:
        model: on ``compute.device`` and in eval mode.
        compute: device and precision.
        steps: number of steps, one evaluation of the network each, or two with guidance.
        teacher: steps of DPM-Solver++(2M) whose samples are approximated; None is 20, or twice ``steps`` if more.
        guidance: guidance scale of the learned steps and the teacher; None is the recipe's.
        iterations: optimizer steps.
        batch: samples in each.
        seed: of the noise.

    Returns:
        A generator of ``TuningStep``, and of ``Tuned`` at the end.

    Raises:
        UserError: when called: impossible steps or guidance, or a grid of the recipe that does not begin at t = 1.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise UserError(f"--steps {steps}: choose from 1 to {MOST_STEPS}")
    own = model.recipe.sample
    scale = own.guidance if guidance is None else guidance
    if not 0 <= scale < math.inf:
        raise UserError(f"--guidance {scale:g}: choose a scale of at least 0; 1 is no guidance")
    config = own.model_copy(update={"steps": steps, "guidance": scale, "tuned": False})
    many = max(TEACHER, 2 * steps) if teacher is None else teacher
    if not steps < many <= 10 * MOST_STEPS:
        raise UserError(
            f"--teacher {many}: choose more steps than the {steps} that are tuned, at most {10 * MOST_STEPS}"
        )
    many = min(many, model.schedule.steps or many)
    levels = model.levels(config.model_copy(update={"steps": many}))
    try:
        parameters = StepParameters(model.schedule, model.levels(config))
    except ValueError as error:
        raise UserError(f"sample.grid of the recipe: {error}; leave it out") from None
    return _Tuning(model, compute, config, parameters, levels, batch, seed).run(iterations)


class _Tuning:
    """What an iteration needs."""

    def __init__(
        self,
        model: Model,
        compute: ComputeConfig,
        config: SamplingConfig,
        parameters: StepParameters,
        teacher: list[NoiseLevel],
        batch: int,
        seed: int,
    ) -> None:
        self._model, self._compute, self._config = model, compute, config
        self._parameters, self._teacher, self._batch, self._seed = parameters, teacher, batch, seed
        self._shape = model.shape(None)
        self._recompute = parameters.steps * batch * math.prod(self._shape[1:]) > _KEPT_ACTIVATIONS
        self._denoise = model.guided(config)
        self._distance = PerceptualDistance(DenoiserFeatures(model.denoiser, compute, self._shape, seed))

    def run(self, iterations: int) -> Generator[TuningStep | Tuned, None, None]:
        """See ``tune``."""
        others = torch.arange(_CHECKED_FIRST, _CHECKED_FIRST + _CHECKED)
        references = self.references(others)
        before = self._check(others, references)
        wanted = [p.requires_grad for p in self._model.denoiser.parameters()]
        self._model.denoiser.requires_grad_(False)
        try:
            yield from self._optimize(iterations)
        finally:
            for parameter, value in zip(self._model.denoiser.parameters(), wanted, strict=True):
                parameter.requires_grad_(value)
        after = self._check(others, references)
        try:
            found = replace(self._parameters.frozen(), guidance=self._config.guidance) if after < before else None
        except ValueError:
            found = None
        yield Tuned(found, before, after)

    def _optimize(self, iterations: int) -> Iterator[TuningStep]:
        references = self.references(torch.arange(min(SAMPLES, iterations * self._batch)))
        optimizer = torch.optim.Adam(self._parameters.parameters(), _LR, betas=(0.9, 0.95))
        for i in range(iterations):
            for group in optimizer.param_groups:
                group["lr"] = _LR * min(1.0, (i + 1) / _WARMUP) * (1 + math.cos(math.pi * i / iterations)) / 2
            ids = torch.arange(i * self._batch, (i + 1) * self._batch) % len(references)
            value = self.distance(ids, references[ids])
            optimizer.zero_grad()
            value.backward()
            norm = torch.nn.utils.clip_grad_norm_(self._parameters.parameters(), _CLIP)
            if bool(norm.isfinite()):
                optimizer.step()
            yield TuningStep(i + 1, iterations, value.item())

    def distance(self, ids: Tensor, references: Tensor) -> Tensor:
        """The distance of the samples ``ids`` with the present numbers to those of the teacher, a scalar."""
        return self._distance(self._samples(ids, *self._parameters.sampler()), references, ids)

    @torch.no_grad()
    def references(self, ids: Tensor) -> Tensor:
        """Samples of the teacher, (B, C, H, W)."""
        return torch.cat([self._samples(part, DPMSolverPP(2), self._teacher) for part in ids.split(2 * self._batch)])

    @torch.no_grad()
    def _check(self, ids: Tensor, references: Tensor) -> float:
        """The mean distance of these samples."""
        parts = list(zip(ids.split(self._batch), references.split(self._batch), strict=True))
        return sum(self.distance(i, r).item() * len(i) for i, r in parts) / len(ids)

    def _samples(self, ids: Tensor, sampler: Sampler, levels: list[NoiseLevel]) -> Tensor:
        """Samples, (B, C, H, W); of a model of classes they take turns."""
        noise = self._model.noise(self._config, ids, self._seed)
        x = initial_noise(self._shape, noise, torch.empty(0, device=self._compute.device))
        x = x.contiguous(memory_format=self._compute.memory_format)
        info = self._model.dataset_info
        cond = conditioning_for(info, "all" if info.class_names else None, ids)
        cond = cond if cond is not None else self._model.default_labels(ids, self._seed)
        on_device = cond.to(self._compute.device) if cond is not None else None
        for step in sampling_loop(self._differentiable, sampler, levels, x, noise, on_device):
            x = step.x
        return x

    def _differentiable(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        def evaluate(x: Tensor, previous: Tensor | None) -> Tensor:
            with self._compute.autocast():
                return self._denoise(x, level, cond, previous).x0

        if not self._recompute or not torch.is_grad_enabled():
            return Prediction(evaluate(x, previous))
        return Prediction(cast(Tensor, checkpoint(evaluate, x, previous, use_reentrant=False)))
