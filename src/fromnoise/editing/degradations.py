"""The degradations that restoration undoes: loss of color, of resolution and of sharpness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fromnoise.diffusion.inverse import LinearOperator, downsampling, gaussian_blur, grayscale
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class Degradation:
    """A degradation of images.

    Attributes:
        channels: of a degraded image.
        factor: by which a degraded image is smaller.
        operator: A, from height and width of full images.
    """

    channels: int
    factor: int
    operator: Callable[[int, int], LinearOperator]


def colorization(channels: int) -> Degradation:
    """Restoring color to grayscale images.

    Args:
        channels: of the model.

    Raises:
        UserError: the model has no color.
    """
    if channels != 3:
        raise UserError(f"colorization needs a model with 3 channels; this one has {channels}")
    return Degradation(1, 1, lambda height, width: grayscale())


def super_resolution(channels: int, factor: int) -> Degradation:
    """Enlarging images; degraded images are means of squares of ``factor`` x ``factor`` pixels.

    Args:
        channels: of the model.
        factor: at least 2.

    Raises:
        UserError: the factor is too small, or, from ``operator``, does not divide the size of the full image.
    """
    if factor < 2:
        raise UserError(f"--upscale {factor} changes nothing: use 2 or more")
    return Degradation(channels, factor, lambda height, width: _downsampling(height, width, factor))


def deblurring(channels: int, std: float) -> Degradation:
    """Undoing a Gaussian blur.

    Args:
        channels: of the model.
        std: standard deviation of the blur, in pixels, up to 100.

    Raises:
        UserError: the standard deviation is out of range.
    """
    if not 0 < std <= 100:
        raise UserError(f"--deblur {std:g} is out of range: use a standard deviation above 0 and up to 100 pixels")
    return Degradation(channels, 1, lambda height, width: gaussian_blur(height, width, std))


def _downsampling(height: int, width: int, factor: int) -> LinearOperator:
    try:
        return downsampling(height, width, factor)
    except ValueError as e:
        raise UserError(f"--upscale {factor}: {e}; use a factor that divides both sides") from None
