"""A perceptual distance of samples to those of a teacher, through which gradients flow.

The features are activations of the model's own denoiser at a low noise level: they need no other network, no images and
no labels, and no metric of ``fromnoise.evaluation`` uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.utils.device import ComputeConfig

NOISE = 0.1
"""sigma/alpha at which the denoiser is evaluated."""


class DenoiserFeatures:
    """Activations of a denoiser at a low noise level, without a condition.

    At each resolution below that of the images, they are those of the widest module, the last one of several.
    """

    def __init__(self, denoiser: Denoiser, compute: ComputeConfig, shape: tuple[int, int, int], seed: int) -> None:
        """Choose the modules by one evaluation.

        Args:
            denoiser: in eval mode, on the device.
            compute: device and precision.
            shape: (C, H, W) of x_0.
            seed: of the noise.
        """
        self._denoiser, self._compute, self._seed = denoiser, compute, seed
        self._level = denoiser.schedule.at(
            denoiser.schedule.time_from_logsnr(torch.tensor(-2 * math.log(NOISE), dtype=torch.float64))
        )
        self._modules = self._choose(shape)

    def _choose(self, shape: tuple[int, int, int]) -> list[nn.Module]:
        widest: dict[tuple[int, ...], tuple[int, nn.Module]] = {}

        def seen(module: nn.Module, output: Tensor) -> None:
            size = tuple(output.shape[2:])
            if size not in widest or output.shape[1] >= widest[size][0]:
                widest[size] = (output.shape[1], module)

        modules = list(self._denoiser.network.modules())
        with torch.no_grad(), _hooked(modules, seen):
            self._evaluate(torch.zeros(1, *shape, device=self._compute.device))
        small = {size: found for size, found in widest.items() if min(size) < min(shape[1:])}
        return [module for _, module in (small or widest).values()]

    def _evaluate(self, x: Tensor) -> None:
        # a network that has no null class takes the first one, for both samples that are compared
        cond = x.new_zeros(len(x), dtype=torch.int64) if getattr(self._denoiser.network, "needs_label", False) else None
        with self._compute.autocast():
            self._denoiser(x, self._level, cond)

    def __call__(self, x0: Tensor, ids: Tensor) -> list[Tensor]:
        """Activations of images.

        Args:
            x0: images or latents, float (B, C, H, W).
            ids: numbers of the images, (B,), which determine the noise added to them.

        Returns:
            float32 (B, C_l, H_l, W_l) for each resolution.
        """
        eps = Noise(self._seed, ids).normal(tuple(x0.shape[1:]), Stream.EPS, like=x0)
        found: list[Tensor] = []
        with _hooked(self._modules, lambda module, output: found.append(output.float())):
            self._evaluate(self._level.noisy(x0, eps).contiguous(memory_format=self._compute.memory_format))
        return found


@contextmanager
def _hooked(modules: list[nn.Module], seen: Callable[[nn.Module, Tensor], object]) -> Iterator[None]:
    """Call ``seen`` with every output of the modules that is a batch of feature maps."""

    def hook(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            seen(module, output)

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class PerceptualDistance:
    """Mean squared difference of images and of their features, each of these over its variance (Zhang et al. 2018).

    Attributes:
        features: of images.
    """

    def __init__(self, features: DenoiserFeatures) -> None:
        """Compare by these features."""
        self.features = features

    def __call__(self, x0: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """The distance of samples (B, C, H, W) to a teacher's samples of the same noise, a scalar.

        Args:
            x0: samples.
            teacher: compared with them; no gradient flows to it.
            ids: their numbers, (B,): both get the same noise.
        """
        with torch.no_grad():
            wanted = self.features(teacher, ids)
        value = (x0 - teacher).square().mean()
        for got, want in zip(self.features(x0, ids), wanted, strict=True):
            value = value + (got - want).square().mean() / want.var().clamp(min=1e-12)
        return value
