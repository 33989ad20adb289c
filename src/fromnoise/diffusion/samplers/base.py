"""What every sampler is: one step from x_t to x_s at a lower noise level, as a frozen object.

The loop over the levels is in ``sampling.py``; guidance wraps the denoiser, and no sampler knows of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.schedules import NoiseLevel

DenoiseFn = Callable[[Tensor, NoiseLevel], Prediction]
"""The denoiser with its condition bound: ``denoise(x, level)``."""
NoiseFn = Callable[[], Tensor]
"""Returns standard normal noise shaped as x, new at each call."""


class Sampler(ABC):
    """One step of a sampler. Frozen: what it remembers between steps it returns, and receives with the next step.

    Attributes:
        default_grid: time grid on which it works best, used where none is chosen.
        default_steps: number of steps used where none is chosen; None is every step of a beta schedule (250 of a
            continuous one).
        evaluations: network evaluations in a step; the last step may take fewer.
    """

    default_grid: ClassVar[str] = "uniform"
    default_steps: ClassVar[int | None] = None
    evaluations: int = 1

    @property
    def min_steps(self) -> int:
        """The smallest number of steps with which the sampler reaches its order."""
        return 1

    def start(self) -> Any:
        """The memory before the first step."""
        return None

    @abstractmethod
    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """Step from x_t to x_s, s < t.

        Args:
            denoise: predicts x_0 at any (x, level).
            x: x_t, (B, C, H, W).
            level_t: the level of ``x``.
            level_s: the level to reach; s = 0 is the clean image.
            noise: returns fresh standard normal noise, (B, C, H, W).
            memory: what the previous step returned.

        Returns:
            x_s, the prediction at x_t, and the memory for the next step.
        """
