"""What a picture may have lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fromnoise.diffusion.inverse.operators import Operator, blur, downsample, grey
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class Degradation:
    """A kind of loss.

    Attributes:
        channels: of a picture that has lost it.
        factor: by which such a picture is smaller.
        operator: A, of the height and width of whole pictures.
    """

    channels: int
    factor: int
    operator: Callable[[int, int], Operator]


def colour(channels: int) -> Degradation:
    """Colour, of which grey is left.

    Raises:
        UserError: whole pictures have none.
    """
    if channels != 3:
        raise UserError(f"colour is had back by a model that draws it; this one draws {channels} channels")
    return Degradation(1, 1, lambda height, width: grey())


def detail(channels: int, factor: int) -> Degradation:
    """Detail, of which the mean of each square of pixels is left.

    Raises:
        UserError: the factor leaves all as it is.
    """
    if factor < 2:
        raise UserError(f"a picture enlarged {factor} times stays what it is: take 2 or more")
    return Degradation(channels, factor, lambda height, width: _shrunk(height, width, factor))


def sharpness(channels: int, deviation: float) -> Degradation:
    """Sharpness, of which a Gaussian blur of this many pixels is left.

    Raises:
        UserError: no such blur.
    """
    if not 0 < deviation <= 100:
        raise UserError(f"{deviation:g} is no width of a blur: take one from above 0 to 100 pixels")
    return Degradation(channels, 1, lambda height, width: blur(height, width, deviation))


def _shrunk(height: int, width: int, factor: int) -> Operator:
    try:
        return downsample(height, width, factor)
    except ValueError as e:
        raise UserError(f"{e}: take a factor that divides both sides") from None
