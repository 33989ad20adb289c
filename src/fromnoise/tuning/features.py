"""Features of images, and the kernel distance in them, through which gradients flow.

The features are activations of the model's own denoiser at a low noise level: they need no other network and no labels,
and no metric of ``fromnoise.evaluation`` uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.utils.device import ComputeConfig

NOISE = 0.3
"""sigma/alpha at which the denoiser is evaluated."""
POOLED = 2
"""Activations are averaged over each of POOLED x POOLED parts of the image."""


class DenoiserFeatures:
    """Pooled activations of a denoiser at a low noise level, (B, D), without a condition.

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
        # a network that has no null class takes the first one, for real images and samples alike
        cond = x.new_zeros(len(x), dtype=torch.int64) if getattr(self._denoiser.network, "needs_label", False) else None
        with self._compute.autocast():
            self._denoiser(x, self._level, cond)

    def __call__(self, x0: Tensor, ids: Tensor) -> Tensor:
        """Features of images.

        Args:
            x0: images or latents, float (B, C, H, W).
            ids: numbers of the images, (B,), which determine the noise added to them.

        Returns:
            float32 (B, D).
        """
        eps = Noise(self._seed, ids).normal(tuple(x0.shape[1:]), Stream.EPS, like=x0)
        found: list[Tensor] = []
        with _hooked(self._modules, lambda module, output: found.append(output)):
            self._evaluate(self._level.noisy(x0, eps).contiguous(memory_format=self._compute.memory_format))
        pooled = [F.adaptive_avg_pool2d(output.float(), POOLED).flatten(1) for output in found]
        return torch.cat(pooled, dim=1)


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


class KernelDistance:
    """Unbiased squared maximum mean discrepancy to real images, kernel (x.y/D + 1)^3 (Binkowski et al. 2018).

    The features are standardized by the mean and the deviation of those of the real images.
    """

    def __init__(self, features: DenoiserFeatures, real: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Compute the features of real images.

        Args:
            features: of images.
            real: batches of images or latents on the device, (B, C, H, W), with their numbers, (B,), for the noise; at
                least 2 images in all.
        """
        self.features = features
        with torch.no_grad():
            found = torch.cat([features(x0, ids) for x0, ids in real])
            self._mean, deviation = found.mean(0), found.std(0)
            self._deviation = deviation.clamp(min=1e-3 * float(deviation.max()) + 1e-12)
            self._real = (found - self._mean) / self._deviation
            self._own = float(_mean_of_pairs(_kernel(self._real, self._real)))

    def __call__(self, x0: Tensor, ids: Tensor) -> Tensor:
        """The distance of samples (B, C, H, W) with the numbers ``ids``, a scalar; it can be negative."""
        return self.of_features(self.features(x0, ids))

    def of_features(self, features: Tensor) -> Tensor:
        """The distance of samples with these features, (B, D)."""
        found = (features - self._mean) / self._deviation
        return _mean_of_pairs(_kernel(found, found)) - 2 * _kernel(found, self._real).mean() + self._own


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_of_pairs(kernel: Tensor) -> Tensor:
    """Mean over the pairs of different vectors of one set."""
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))
