"""Losses of autoencoders, and the likelihood of an image given its latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.diffusion.likelihood.elbo import decoder_nll
from fromnoise.diffusion.losses import LossTerms, mae, mse
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.time_samplers import Uniform
from fromnoise.registry import register

_LOG_CDF: dict[str, Callable[[Tensor], Tensor]] = {"gaussian": torch.special.log_ndtr, "logistic": F.logsigmoid}
_LOG_SCALE = (-7.0, 3.0)  # an eighth of a bin to ten times the range of pixels
_DISTANCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mae": mae, "mse": mse}


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) in nats, (B,): 1/2 sum(mean^2 + variance - 1 - log variance).

    Source: Kingma and Welling 2014, app. B.
    """
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


def reconstruction_nll(x: Tensor, centre: Tensor, autoencoder: Any) -> Tensor:
    """-log p(x | z) in nats, (B,): independent pixels, each distribution integrated over the bins of 8-bit pixels.

    Args:
        x: images (B, C, H, W), the values k/127.5 - 1 of 8-bit pixels.
        centre: of the distributions, same shape: ``autoencoder.decode(z)``.
        autoencoder: whose ``log_scale``, (C,), is the logarithm of the distributions' scale and whose ``decoder`` is
            their kind, "gaussian" or "logistic" (Salimans et al. 2017, eq. 2, without the mixture).
    """
    scale = autoencoder.log_scale.clamp(*_LOG_SCALE).exp()[:, None, None]
    return decoder_nll(x, centre, scale.to(x), _LOG_CDF[autoencoder.decoder])


class Reconstruction(ABC):
    """A loss of autoencoders.

    Attributes:
        generative: whether latents follow the prior N(0, I), so that decoded samples of it are samples of the model.
    """

    generative: bool

    @abstractmethod
    def per_image(self, autoencoder: Any, x: Tensor, eps: Tensor) -> Tensor:
        """Loss (B,).

        Args:
            autoencoder: as of ``networks.autoencoder``.
            x: images (B, C, H, W) in [-1, 1].
            eps: standard normal noise of the latents.
        """


def _sample(autoencoder: Any, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Z ~ q(z | x), and KL(q(z | x) || N(0, I))."""
    mean, log_variance = autoencoder.encode(x)
    return mean + (0.5 * log_variance).exp() * eps, kl_to_standard_normal(mean, log_variance)


@register("reconstruction", "elbo")
@dataclass(frozen=True)
class NegativeELBO(Reconstruction):
    """-log p(x | z) + beta KL(q(z | x) || N(0, I)), in nats per dimension: a VAE whose decoder learns its scale.

    With beta = 1 it is a bound on -log p(x) (Kingma and Welling 2014, eq. 7). A learned scale balances both terms
    without a weight (Rybkin et al. 2021).

    Attributes:
        beta: weight of the KL divergence (Higgins et al. 2017).
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range with a ValueError."""
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta {self.beta} must be 0 or more")

    @property
    def generative(self) -> bool:
        """Always: the KL divergence to the prior is part of the bound."""
        return True

    def per_image(self, autoencoder: Any, x: Tensor, eps: Tensor) -> Tensor:
        """See ``Reconstruction``."""
        z, kl = _sample(autoencoder, x, eps)
        nll = reconstruction_nll(x, autoencoder.decode(z), autoencoder)
        return (nll + self.beta * kl) / x[0].numel()


@register("reconstruction", "regularized")
@dataclass(frozen=True)
class Regularized(Reconstruction):
    """A distance of images, a distance of their gradients at several scales, and a small KL divergence.

    d(x, x') + gradient sum_s d(grad x_s, grad x'_s) + kl_weight KL / dimensions of the image, with x_s the image
    averaged over squares of 2^s pixels. The small KL divergence keeps the latents in a bounded region without taking
    information from them (Rombach et al. 2022, app. G). The decoder's scale is fitted to the errors of the
    reconstruction: its gradient reaches nothing else, but counts in a clipped norm.

    Attributes:
        distance: mae or mse.
        gradient: weight of the distance of gradients, which keeps edges sharp.
        scales: number of scales of the gradients.
        kl_weight: weight of the KL divergence.
    """

    distance: Literal["mae", "mse"] = "mae"
    gradient: float = 0.5
    scales: int = 3
    kl_weight: float = 1e-4

    def __post_init__(self) -> None:
        """Refuse values out of range with a ValueError."""
        for name in ("gradient", "kl_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} {getattr(self, name)} must be 0 or more")
        if self.scales < 1:
            raise ValueError(f"scales {self.scales} must be 1 or more")

    @property
    def generative(self) -> bool:
        """Never: the prior is that of a diffusion model."""
        return False

    def per_image(self, autoencoder: Any, x: Tensor, eps: Tensor) -> Tensor:
        """See ``Reconstruction``."""
        z, kl = _sample(autoencoder, x, eps)
        out = autoencoder.decode(z)
        distance = _DISTANCE[self.distance]
        loss = distance(out, x).flatten(1).mean(1)
        if self.gradient:
            loss = loss + self.gradient * self._gradient_distance(x, out, distance)
        nll = reconstruction_nll(x, out.detach(), autoencoder)
        # a unit weight: the gradient of this term goes to the scale alone; its value is left out of the loss
        return loss + (self.kl_weight * kl + nll - nll.detach()) / x[0].numel()

    def _gradient_distance(self, x: Tensor, out: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Sum over scales of the mean distance of differences between neighbouring pixels, (B,)."""
        total = torch.zeros(len(x), device=x.device)
        for scale in range(self.scales):
            if scale:
                if min(x.shape[-2:]) < 4:
                    break
                x, out = F.avg_pool2d(x, 2), F.avg_pool2d(out, 2)
            for dim in (-2, -1):
                if x.shape[dim] > 1:
                    errors = distance(out.diff(dim=dim), x.diff(dim=dim))
                    total = total + errors.flatten(1).mean(1)
        return total


class ReconstructionLoss(nn.Module):
    """An autoencoder with its training loss, called as ``loss(x, positions)``; wrapped as one module for DDP."""

    def __init__(self, autoencoder: nn.Module, objective: Reconstruction, *, seed: int = 0) -> None:
        """Combine the parts.

        Args:
            autoencoder: to be trained.
            objective: loss of an image.
            seed: of the noise of the latents.
        """
        super().__init__()
        self.autoencoder, self.objective, self.seed = autoencoder, objective, seed
        self.time_sampler = Uniform()  # an autoencoder has no time: nothing is sampled from it

    def forward(
        self,
        x0: Tensor,
        positions: Tensor,
        cond: Tensor | None = None,
        *,
        self_condition: bool = False,
        training: bool = True,
    ) -> LossTerms:
        """Loss of each image; the arguments are those of ``DiffusionLoss``, of which the last three have no effect."""
        shape: tuple[int, ...] = self.autoencoder.latent_shape  # pyright: ignore[reportAssignmentType]
        eps = Noise(self.seed, positions).normal(shape, Stream.LATENT, like=x0)
        per_image = self.objective.per_image(self.autoencoder, x0, eps)
        times = torch.zeros(len(positions), dtype=torch.float64)
        return LossTerms(per_image, per_image.detach(), times, times)
