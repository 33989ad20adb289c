"""Predictor-corrector sampling (Song et al. 2021, "Score-based generative modeling through SDEs")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromnoise.diffusion.denoiser import Prediction
from fromnoise.diffusion.samplers.ancestral import Ancestral
from fromnoise.diffusion.samplers.base import DenoiseFn, NoiseFn, Sampler
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """A predictor step, then Langevin steps at the level reached (Song et al. 2021, alg. 5).

    x <- x + eps score + sqrt(2 eps) z,   score = -eps_hat / sigma_s,   eps = 2 (r sigma_s)^2

    Alg. 5 takes |z| / |score| over the batch, which is close to sigma; with sigma no image depends on its batch. Its
    factor alpha_i = 1 - beta_i of eps, near 1 for small steps, is left out.

    Attributes:
        predictor: any sampler.
        langevin_snr: r, the signal-to-noise ratio of a Langevin step.
        corrections: Langevin steps after each predictor step, one evaluation each.
    """

    predictor: Sampler
    langevin_snr: float = 0.16
    corrections: int = 1

    def __post_init__(self) -> None:
        """Check the options, and count the evaluations: those of the predictor, and one for each correction.

        Raises:
            ValueError: one is out of range.
        """
        if not self.langevin_snr > 0:
            raise ValueError(f"langevin_snr={self.langevin_snr} must be positive")
        if self.corrections < 0:
            raise ValueError(f"corrections={self.corrections} must be 0 or more")
        object.__setattr__(self, "evaluations", self.predictor.evaluations + self.corrections)

    @property
    def min_steps(self) -> int:
        """That of the predictor."""
        return self.predictor.min_steps

    def start(self) -> Any:
        """That of the predictor."""
        return self.predictor.start()

    def step(
        self, denoise: DenoiseFn, x: Tensor, level_t: NoiseLevel, level_s: NoiseLevel, noise: NoiseFn, memory: Any
    ) -> tuple[Tensor, Prediction, Any]:
        """A predictor step and its corrections (none at the clean image); see ``Sampler.step``."""
        x, prediction, memory = self.predictor.step(denoise, x, level_t, level_s, noise, memory)
        for _ in range(self.corrections if level_s.sigma > 0 else 0):
            score = -level_s.eps(x, denoise(x, level_s).x0) / level_s.sigma
            size = 2 * (self.langevin_snr * level_s.sigma) ** 2
            x = x + size * score + (2 * size).sqrt() * noise()
        return x, prediction, memory


@register("sampler", "pc")
def predictor_corrector(
    variance: float | None = None, langevin_snr: float = 0.16, corrections: int = 1
) -> PredictorCorrector:
    """Ancestral steps, each followed by Langevin corrections (Song et al. 2021, alg. 5).

    Args:
        variance: of the ancestral steps, as of sampler ancestral.
        langevin_snr: signal-to-noise ratio of a Langevin step.
        corrections: Langevin steps after each ancestral step, one evaluation each.

    Raises:
        ValueError: an option is out of range.
    """
    return PredictorCorrector(Ancestral(variance), langevin_snr, corrections)
