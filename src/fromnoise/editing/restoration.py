"""The two ways of editing: draw images that agree with what is known, or go up to a noise level and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.diffusion.inverse.operators import Operator
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.sampling import initial_noise
from fromnoise.model import Model, Wrapper, no_wrapper, sampler, solver
from fromnoise.pipeline import SampleStep, SamplingRun, follow
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class EditRun:
    """What every edit goes by.

    Attributes:
        model: placed on ``compute.device`` and in eval mode.
        how: rule, steps and guidance; without a label there is no guidance by labels.
        compute: where and how precisely.
        ids: numbers of the pictures to draw, (N,); picture i depends on (seed, i) alone.
        seed: of all noise.
        label: what to draw, as ``dataset_info.cond`` takes it.
        batch: pictures at a time.
        wrap: further guidance, as ``Model.guided`` takes it.
    """

    model: Model
    config: SamplingConfig
    compute: ComputeConfig
    ids: Tensor
    seed: int = 0
    label: str | None = None
    batch: int = 64
    wrap: Wrapper = no_wrapper

    def course(self, begin: Callable[[Noise, Tensor], Tensor], wrap_outermost: Wrapper = no_wrapper) -> SamplingRun:
        """The whole way down from t = 1.

        Raises:
            UserError: impossible steps or an unknown label.
        """
        config = self.config if self.label is not None else self.config.model_copy(update={"guidance": 1.0})
        return SamplingRun(
            self.model.guided(config, self.wrap, wrap_outermost),
            sampler(config, self.model),
            self.model.levels(config),
            self.model.noise(config, self.ids, self.seed),
            begin,
            conditioning_for(self.model.dataset_info, self.label, self.ids),
        )


def restore(
    brush: EditRun,
    operator: Operator,
    y: Tensor,
    size: tuple[int, int],
    method: str = "posterior",
    iterations: int | None = None,
) -> Iterator[SampleStep]:
    """Draw images of which y = A x is known: inpainting, outpainting, colour, detail, sharpness.

    The finished images agree with y; of a mask, to the last bit.

    Args:
        brush: model and manner.
        operator: A.
        y: what is known, (1, ...), pixels in [-1, 1].
        size: height and width of the images.
        method: as ``model.solver`` takes it.
        effort: as ``model.solver`` takes it.

    Returns:
        A generator of one ``SampleStep`` a step and batch.

    Raises:
        UserError: at once, as ``model.solver``, ``Model.shape`` and ``EditRun.course``.
    """
    y, shape = y.to(brush.compute.device), brush.model.shape(size)
    wrap_outermost, wrap_rule = solver(method, operator, y, iterations)
    course = brush.course(lambda noise, like: initial_noise(shape, noise, like), wrap_outermost)
    course = replace(course, sampler=wrap_rule(course.sampler))
    return _agreeing(follow(course, brush.compute, brush.batch), operator, y)


def _agreeing(steps: Iterator[SampleStep], operator: Operator, y: Tensor) -> Iterator[SampleStep]:
    for drawn in steps:
        if drawn.last:
            drawn = replace(drawn, step=replace(drawn.step, x=operator.agree(drawn.step.x, y)))
        yield drawn


def vary(brush: EditRun, x0: Tensor, depth: float) -> Iterator[SampleStep]:
    """Noise to a depth and back: images like one that is given (Meng et al. 2022, "SDEdit").

    Args:
        brush: model and manner; of its steps those below the depth are taken.
        x0: the image, (1, C, H, W), pixels in [-1, 1].
        depth: t in (0, 1] that it is taken up to: near 0 it stays, at 1 nothing of it is left.

    Returns:
        A generator of one ``SampleStep`` a step and batch.

    Raises:
        UserError: at once: a depth out of range, or as ``EditRun.course``.
    """
    if not 0 < depth <= 1:
        raise UserError(f"a depth of {depth:g} is not to be had: take one from above 0, nothing changed, to 1, all new")
    shape = brush.model.shape((x0.shape[-2], x0.shape[-1]))
    steps = brush.model.schedule.steps
    top = brush.model.schedule.at(depth if steps is None else max(1, round(depth * steps)) / steps)

    def begin(noise: Noise, like: Tensor) -> Tensor:
        clean = x0.to(like).expand(len(noise.ids), -1, -1, -1)
        alpha, sigma = (torch.as_tensor(v).to(like) for v in (top.alpha, top.sigma))
        return alpha * clean + sigma * noise.image(shape, Stream.START, like=like)

    course = brush.course(begin)
    levels = [top, *(level for level in course.levels if level.t < top.t)]
    return follow(replace(course, levels=levels), brush.compute, brush.batch)
