"""The interface of every model: a noisy image and its noise level in, an estimate of the clean image out.

A network is any ``nn.Module(x, t, cond)``; the meaning of its output (``Target``) and its time input
(``NoiseConditioning``) are set here once, so that samplers, guidance and likelihoods only meet ``Prediction.x0``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.diffusion.noise_conditioning import NoiseConditioning, TimestepConditioning
from fromnoise.diffusion.schedules import NoiseLevel, Schedule
from fromnoise.diffusion.targets import Eps, Target


@dataclass(frozen=True)
class Prediction:
    """A denoiser's estimate at a noisy image.

    Attributes:
        x0: estimate of E[x_0 | x_t], (B, C, H, W).
        variance_fraction: v of Nichol and Dhariwal 2021 (eq. 15): position of the reverse step's log variance between
            small (0) and large (1), shaped as ``x0``; None if the variance is not learned.
    """

    x0: Tensor
    variance_fraction: Tensor | None = None


def score(x: Tensor, prediction: Prediction, level: NoiseLevel) -> Tensor:
    """Score at x_t: grad log p_t(x_t) = -eps_hat / sigma (Song et al. 2021, sec. 3.3)."""
    return -level.eps(x, prediction.x0) / level.sigma


def velocity(x: Tensor, prediction: Prediction, level: NoiseLevel) -> Tensor:
    """dx / d lambda of the probability flow at x_t: alpha (x0_hat - alpha x_t), lambda = logsnr / 2."""  # noqa: D403
    return level.alpha * (prediction.x0 - level.alpha * x)


Denoise = Callable[[Tensor, NoiseLevel, Tensor | None, Tensor | None], Prediction]
"""``denoise(x, level, cond, previous)``: a ``Denoiser``, one wrapped in guidance, or an exact one (``oracles.py``)."""


def null_condition(cond: Tensor) -> Tensor:
    """The null condition, shaped as ``cond``: -1 in place of classes, NaN in place of attributes."""
    return torch.full_like(cond, torch.nan if cond.is_floating_point() else -1)


class Denoiser(nn.Module):
    """A network with its schedule and target: ``denoiser(x, level, cond, previous) -> Prediction``.

    Final: wrap it, do not override it.

        denoiser = Denoiser(MyNet(), schedules.linear(1000), targets.V())
        loss = denoiser.loss(x0, seed=0, positions=range(64)).mean()
    """

    pseudo_labels: Any
    latent_space: Any
    weak_step: Tensor | None
    _augmentation: Tensor | None = None

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        target: Target | None = None,
        *,
        noise_conditioning: NoiseConditioning | None = None,
        self_conditioning: bool = False,
        self_conditioning_clip: bool = True,
        learned_variance: bool = False,
        clip_x0: bool = False,
        pseudo_labels: nn.Module | None = None,
        latent_space: nn.Module | None = None,
        weak: bool = False,
    ) -> None:
        """Combine the parts.

        Args:
            network: called as ``network(x, t, cond)`` with t of shape (B,). With self-conditioning its input x has 2C
                channels; with a learned variance its output has 2C.
            schedule: of the noise.
            target: what the first C output channels are; None is the noise.
            noise_conditioning: the network's time input; None is the timestep, 0 to T - 1 (T = 1000 for a continuous
                schedule).
            self_conditioning: the network also receives the previous estimate of x_0, or zeros (Chen et al. 2022,
                "Analog bits").
            self_conditioning_clip: clip that estimate to [-1, 1].
            learned_variance: the last C output channels v in [-1, 1] give the variance fraction (v + 1)/2 (Nichol and
                Dhariwal 2021, eq. 15).
            clip_x0: clip every prediction to [-1, 1], the range of the images; ``losses.Regression`` then has no error
                where a black or white pixel is predicted beyond it. The gradient of a clipped prediction is 0, so
                objectives use ``output``.
            pseudo_labels: a module that assigns clusters to images, for a model conditioned on them; saved with the
                weights.
            latent_space: a module whose latents the network denoises, with ``shape``, ``encode`` and ``decode``; None
                for a model of pixels. Not used here; saved with the weights.
            weak: also hold a frozen copy of the network, for an early version of the weights (``keep_weak``); saved
                with them.
        """
        super().__init__()
        self.network, self.schedule, self.target = network, schedule, target or Eps()
        self.noise_conditioning = noise_conditioning or TimestepConditioning(schedule.steps or 1000)
        self.pseudo_labels, self.latent_space = pseudo_labels, latent_space
        self.self_conditioning, self.self_conditioning_clip = self_conditioning, self_conditioning_clip
        self.learned_variance, self.clip_x0 = learned_variance, clip_x0
        self.weak_network = copy.deepcopy(network).requires_grad_(False) if weak else None
        self.register_buffer("weak_step", torch.zeros((), dtype=torch.int64) if weak else None)

    def augmented(self, augmentation: Tensor) -> Denoiser:
        """This denoiser, with the same weights, for images to which something was done.

        Args:
            augmentation: what, float32 (B, K), as of ``augmentation.Augmentation``; a second condition of the network.
        """
        view = copy.copy(self)
        view._augmentation = augmentation
        return view

    @torch.no_grad()
    def keep_weak(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Copy an early version of the weights, the weaker model of autoguidance.

        Args:
            weights: parameters of this module by name; those that are missing are its present ones.
            step: of training, from 1.

        Raises:
            ValueError: the denoiser was made without ``weak``.
        """
        if self.weak_network is None or self.weak_step is None:
            raise ValueError("this denoiser holds no weaker version: make it with weak=True")
        for name, p in self.weak_network.named_parameters():
            p.copy_(weights.get(f"network.{name}", self.network.get_parameter(name)))
        for name, b in self.weak_network.named_buffers():
            b.copy_(self.network.get_buffer(name))
        self.weak_step.fill_(step)

    def weak(self) -> Denoiser | None:
        """This denoiser with the weights of ``keep_weak``; None before it was called."""
        if self.weak_step is None or not int(self.weak_step):
            return None
        view = copy.copy(self)
        view._modules = self._modules | {"network": self.weak_network}
        return view

    def output(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The network's estimate of its target, and the variance fraction if it learns one.

        Both (B, C, H, W) in the dtype of ``x``.
        """
        inputs = self.target.scale_input(x, level)
        if self.self_conditioning:
            estimate = torch.zeros_like(x) if previous is None else previous
            inputs = torch.cat([inputs, estimate.clamp(-1, 1) if self.self_conditioning_clip else estimate], dim=1)
        t = self.noise_conditioning.value(level).to(x.device, torch.float32, non_blocking=True).expand(len(x))
        more = {} if self._augmentation is None else {"augmentation": self._augmentation}
        out = self.network(inputs, t, cond, **more).to(x.dtype)
        if not self.learned_variance:
            return out, None
        out, v = out.chunk(2, dim=1)
        return out, (v + 1) / 2

    def forward(
        self, x: Tensor, level: NoiseLevel, cond: Tensor | None = None, previous: Tensor | None = None
    ) -> Prediction:
        """Estimate the clean image.

        Args:
            x: noisy images x_t, (B, C, H, W).
            level: their noise level.
            cond: class indices (B,), -1 for none; or attributes (B, A), NaN for none; or None.
            previous: an earlier estimate of x_0, used by a self-conditioned model.
        """
        out, variance_fraction = self.output(x, level, cond, previous)
        x0 = self.target.x0(x, out, level)
        return Prediction(x0.clamp(-1, 1) if self.clip_x0 else x0, variance_fraction)

    def loss(
        self,
        x0: Tensor,
        cond: Tensor | None = None,
        *,
        seed: int = 0,
        positions: Sequence[int] | Tensor | None = None,
        objective: Any = None,
        time_sampler: Any = None,
        offset_noise: float = 0.0,
        label_dropout: float = 0.0,
        self_condition: bool | None = None,
    ) -> Tensor:
        """Training loss of each image at a random noise level, (B,): for a training loop of one's own.

        Args:
            x0: clean images (B, C, H, W) in [-1, 1].
            cond: class indices (B,), attributes (B, A), or None.
            seed: of time and noise.
            positions: numbers of the images in the training sequence, (B,); with the seed they determine time and
                noise, so give every image of a run its own: ``range(step * batch, (step + 1) * batch)``. None draws
                them at random from torch's generator.
            objective: as of ``losses.Objective``; None is the mean squared error in the target (Ho et al. 2020,
                eq. 14).
            time_sampler: as of ``time_samplers.TimeSampler``; None is uniform.
            offset_noise: as of ``losses.DiffusionLoss``.
            label_dropout: as of ``losses.DiffusionLoss``.
            self_condition: whether a self-conditioned model sees its own first estimate; None is every second time,
                by the first position.
        """
        from fromnoise.diffusion.losses import DiffusionLoss, Regression, self_condition_mask
        from fromnoise.diffusion.time_samplers import Uniform

        if positions is None:
            where = torch.randint(2**62, (len(x0),))
        elif isinstance(positions, Tensor):
            where = positions
        else:
            where = torch.tensor(list(positions), dtype=torch.int64)
        if len(where) != len(x0):
            raise ValueError(f"positions has {len(where)} numbers for {len(x0)} images")
        if self_condition is None:
            self_condition = self.self_conditioning and self_condition_mask(seed, int(where[0]))
        terms = DiffusionLoss(
            self,
            objective or Regression(),
            time_sampler or Uniform(),
            seed=seed,
            offset_noise=offset_noise,
            label_dropout=label_dropout,
        )(x0, where, cond, self_condition=self_condition)
        return terms.weighted
