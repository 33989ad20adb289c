"""Distillation to few evaluations: a model predicts the end of the base's trajectory in one evaluation.

f(x_t, t) is the clean image that the network predicts. A denoiser returns a mean, which is blurred at high noise; a
distilled model returns one image of those that x_t can have come from, so that one evaluation makes a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoiser, Prediction
from fromnoise.diffusion.feature_maps import FeatureMaps, feature_distance
from fromnoise.diffusion.guidance.autoguidance import Autoguidance
from fromnoise.diffusion.losses import Objective
from fromnoise.diffusion.rng import Noise
from fromnoise.diffusion.samplers.dpm_solver import DPMSolverPP
from fromnoise.diffusion.sampling import quadratic, sampling_loop
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.registry import register

_SAME = 1e-9  # times that differ by less are one


@register("objective", "consistency")
@dataclass(frozen=True)
class Consistency(Objective):
    """Distance of f(x_t, t) to the end of the base's trajectory from x_t, in pixels and in feature maps of the base.

    L = (sqrt(|f - y|^2 + c^2) - c) / sqrt(d) + features * D(phi(f), phi(y)),   c = huber sqrt(d)

    y is the end of the probability flow of the base from x_t, by DPM-Solver++(2M), solved anew for every image of every
    batch: f is the consistency function (Song et al. 2023, "Consistency models", sec. 3), learned by regression
    (Luhman and Luhman 2021, "Knowledge distillation in iterative generative models"). The first term is the
    pseudo-Huber distance of Song and Dhariwal 2024, sec. 3.3. D is ``feature_distance`` of what the base, without a
    condition, makes of both with the same noise of ``feature_time``: in pixels alone an image that the network cannot
    place exactly becomes blurred. At t = 1 the network sees noise alone, as in sampling.

    Attributes:
        base: the model that is distilled.
        solver_steps: of the solver from t = 1, at times t = u^2; from other times those of its steps that are left.
        huber: see above.
        features: weight of the distance in feature maps.
        feature_time: t of the noise with which the base sees predictions and targets.
        clip: the base's x_0 is clipped to [-1, 1]; false for latents.
        autoguidance: scale of autoguidance of the base, where it has kept a weaker version of itself; 1 is none.
    """

    base: Denoiser | None = None
    solver_steps: int = 8
    huber: float = 0.03
    features: float = 1.0
    feature_time: float = 0.1
    clip: bool = True
    autoguidance: float = 1.5
    _maps: list[FeatureMaps] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one is out of range, or there is no base.
        """
        if self.base is None:
            raise ValueError("a trained model is distilled: use fromnoise distill RUN, or set train.init_from")
        if not 0 < self.feature_time <= 1:
            raise ValueError(f"feature_time={self.feature_time} must be a time in (0, 1]")
        if self.solver_steps < 1:
            raise ValueError(f"solver_steps={self.solver_steps} must be 1 or more")
        for name in ("huber", "features", "autoguidance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")

    def per_image(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        eps: Tensor,
        level: NoiseLevel,
        cond: Tensor | None,
        previous: Tensor | None,
    ) -> Tensor:
        """The loss of each image, (B,)."""
        pure = (level.t == 1).reshape(level.alpha.shape).to(x0.device)
        x = torch.where(pure, eps, level.noisy(x0, eps))  # sampling starts from noise alone
        with torch.no_grad():
            target = self._target(x, level, cond)
        predicted = denoiser.target.x0(x, denoiser.output(x, level, cond)[0], level)
        if denoiser.clip_x0:  # with the gradient of the unclipped value, as that of a clipped one is 0 beyond the range
            predicted = predicted + (predicted.clamp(-1, 1) - predicted).detach()
        dimensions = x[0].numel()
        scale = self.huber * math.sqrt(dimensions)
        square = (predicted.float() - target).square().flatten(1).sum(1)
        loss = ((square + scale**2 + 1e-12).sqrt() - scale) / math.sqrt(dimensions)
        if not self.features:
            return loss
        noise = eps.roll(1, 0)  # of another image: a prediction depends on its own
        with torch.no_grad():
            maps = self._features(target, noise)
        return loss + self.features * feature_distance(self._features(predicted, noise), maps)

    def _target(self, x: Tensor, level: NoiseLevel, cond: Tensor | None) -> Tensor:
        """Ends of the base's trajectories from x_t, float32 (B, C, H, W); images of one time are solved together."""
        out = torch.empty_like(x, dtype=torch.float32)
        times = level.t.expand(len(x))
        for t in times.unique():
            chosen = ((times - t).abs() < _SAME).nonzero().squeeze(1).to(x.device)
            out[chosen] = self._end(x[chosen], float(t), cond[chosen] if cond is not None else None).float()
        return out

    def _end(self, x: Tensor, t: float, cond: Tensor | None) -> Tensor:
        """The end of the trajectories from x at time t."""
        assert self.base is not None
        base = self.base
        grid = quadratic(base.schedule, min(self.solver_steps, base.schedule.steps or self.solver_steps))
        levels = [base.schedule.at(t), *(step for step in grid if float(step.t) < t - _SAME)]

        weak = base.weak() if self.autoguidance != 1 else None
        guided = base if weak is None else Autoguidance(base, weak, self.autoguidance)

        def denoise(y: Tensor, level: NoiseLevel, cond: Tensor | None, previous: Tensor | None) -> Prediction:
            prediction = guided(y, level, cond)
            return Prediction(prediction.x0.clamp(-1, 1) if self.clip else prediction.x0, None)

        unused = Noise(0, torch.arange(len(x)))  # the solver is deterministic
        for step in sampling_loop(denoise, DPMSolverPP(2), levels, x, unused, cond):
            x = step.x
        return x

    def _features(self, images: Tensor, noise: Tensor) -> list[Tensor]:
        """Feature maps of the base at noised images, without a condition."""
        assert self.base is not None
        base = self.base
        level = base.schedule.at(torch.full((len(images),), self.feature_time, dtype=torch.float64), like=images)
        if not self._maps:
            self._maps.append(FeatureMaps(base.network))
        return self._maps[0](lambda: base(level.noisy(images, noise), level))
