"""What sampling yields after each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from fromnoise.data import to_uint8
from fromnoise.diffusion.sampling import Step


@dataclass(frozen=True)
class SampleStep:
    """A sampling step of a batch.

    Attributes:
        ids: numbers of the samples in this batch, (B,).
        cond: their condition, (B,) or (B, A), or None.
        step: levels, images and prediction, in the space of the diffusion: pixels or latents.
        decode: from that space to images in [-1, 1]; None for pixels.
    """

    ids: Tensor
    cond: Tensor | None
    step: Step
    decode: Callable[[Tensor], Tensor] | None = None

    @property
    def last(self) -> bool:
        """Whether ``step.x`` are the finished samples."""
        return self.step.index == self.step.total - 1

    @cached_property
    def images(self) -> Tensor:
        """x_s as uint8 (B, C, H, W) on the CPU, clipped to the range of pixels."""
        return self._pixels(self.step.x)

    @cached_property
    def x0(self) -> Tensor:
        """The predicted x_0 as uint8 (B, C, H, W) on the CPU."""
        return self._pixels(self.step.prediction.x0)

    def _pixels(self, x: Tensor) -> Tensor:
        return to_uint8(x if self.decode is None else self.decode(x)).cpu()

    @property
    def t(self) -> float:
        """The time reached, from 1 (noise) to 0 (image)."""
        return float(self.step.level_s.t)
