"""Restoration: sample images that agree with a measurement y = A x."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from fromnoise.diffusion.inverse import MMPS, InverseSolver, LinearOperator
from fromnoise.diffusion.sampling import initial_noise
from fromnoise.editing.edit_config import EditConfig
from fromnoise.pipeline import SampleStep


def restore(
    edit: EditConfig,
    operator: LinearOperator,
    y: Tensor,
    size: tuple[int, int],
    solver: InverseSolver | None = None,
) -> Iterator[SampleStep]:
    """Sample images x with A x = y: inpainting, outpainting, colorization, super-resolution and deblurring.

    The finished images are projected onto those that agree with y; known pixels of a mask are kept bit for bit.

    Args:
        edit: the model and the sampling settings.
        operator: A.
        y: the measurement, (1, ...), from pixels in [-1, 1].
        size: height and width of the images.
        solver: how the samples are made to agree with y; None is ``MMPS()``.

    Returns:
        A generator of one ``SampleStep`` for each step and batch.

    Raises:
        UserError: when called, as ``Model.shape`` and ``EditConfig.sampling_run``.
    """
    solver = solver or MMPS()
    y, shape = y.to(edit.compute.device), edit.model.shape(size)
    run = edit.sampling_run(
        lambda noise, like: initial_noise(shape, noise, like), lambda denoise: solver.denoiser(denoise, operator, y)
    )
    run = replace(run, sampler=solver.sampler(run.sampler, operator, y))
    return _projected(run.steps(edit.compute, edit.batch), operator, y)


def _projected(steps: Iterator[SampleStep], operator: LinearOperator, y: Tensor) -> Iterator[SampleStep]:
    """The steps, with the finished images projected onto those that agree with y."""
    for sample_step in steps:
        if sample_step.last:
            step = sample_step.step
            sample_step = replace(sample_step, step=replace(step, x=operator.project(step.x, y)))
        yield sample_step
