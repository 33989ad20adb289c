"""Activations of a trained denoiser as features of images, at a layer and a time that are chosen without labels.

A network that removes noise from images learns features of what is in them, most useful for discrimination in the
middle of its depth and at moderate noise (Baranchuk et al. 2022, "Label-efficient semantic segmentation with diffusion
models"; Xiang et al. 2023, "Denoising diffusion autoencoders are unified self-supervised learners"). The features of an
image x_0 at the block l and the time t are

    f(x_0) = mean_k pool(h_l(alpha_t x_0 + sigma_t eps_k, t)),   eps_k ~ N(0, I)

with h_l the output of the block, under the null condition, and then ``standardized``: a few channels would be most of
their distances otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.checkpoint import load_model
from fromnoise.data import Images, to_float
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.diffusion.schedules import NoiseLevel
from fromnoise.model import Model
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError, printable

_BATCH = 256
_SIDE = 4  # of the average-pooled output of a block, at most
_NUMBERS = 2048  # of a feature vector, at most: blocks of many channels are pooled to fewer pixels

Change = Callable[[Tensor, Tensor], Tensor]
"""Changes images (B, C, H, W) in [-1, 1] with the numbers int64 (B,)."""


def unchanged(x0: Tensor, ids: Tensor) -> Tensor:
    """The images themselves."""
    return x0


@dataclass(frozen=True)
class Activations:
    """Reads the outputs of the blocks of a denoiser's network.

    Attributes:
        model: on the device of ``compute``, in evaluation mode.
        compute: device and precision.
        seed: of the noise.
        layers: names of the blocks, in the order in which they are evaluated.
    """

    model: Model
    compute: ComputeConfig
    seed: int
    layers: tuple[str, ...]

    @staticmethod
    def from_run(run: str | Path, shape: tuple[int, int, int], compute: ComputeConfig, seed: int) -> Activations:
        """The activations of a diffusion run.

        Args:
            run: a run directory, a .safetensors file or ``hub:owner/name``.
            shape: (C, H, W) of the images.
            compute: device and precision.
            seed: of the noise.

        Raises:
            UserError: there is no diffusion model, or it is one of images of another shape.
        """
        model = load_model(run).model
        if model.dataset_info.shape != shape:
            own, given = (f"{h}x{w} with {c} channels" for c, h, w in (model.dataset_info.shape, shape))
            raise UserError(f"{run} is a model of images of {own}, and these have {given}: give a run on such images")
        return Activations.from_model(model, compute, seed)

    @staticmethod
    def from_model(model: Model, compute: ComputeConfig, seed: int) -> Activations:
        """The activations of a model, which is moved to the device.

        Raises:
            UserError: its network has no blocks.
        """
        compute.to_device(model.denoiser.eval())
        layers = _blocks(model, compute)
        if not layers:
            kind = printable(model.recipe.network.kind)
            raise UserError(f"network {kind} has no blocks whose output is an image: use a run of network unet")
        return Activations(model, compute, seed, layers)

    def at(
        self,
        images: Images,
        ids: Tensor,
        time: float,
        layers: Sequence[str],
        noises: Sequence[int] = (0,),
        change: Change = unchanged,
        on_progress: Callable[[float], object] = lambda fraction: None,
    ) -> dict[str, Tensor]:
        """Features of images, float32 (n, D) for each layer; those of an image do not depend on the others.

        Args:
            images: the data set, of the shape of the model's.
            ids: numbers of the images, int64 (n,).
            time: t in (0, 1).
            layers: names of blocks.
            noises: numbers of the noises whose mean is taken.
            change: of the images before noise is added.
            on_progress: called with the completed fraction.

        Raises:
            UserError: an activation is not finite, or the network refuses the null condition.
        """
        found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        done = 0
        for batch in ids.split(_BATCH):
            with torch.inference_mode(), self.compute.autocast():
                pixels = to_float(images.get(batch).to(self.compute.device))
                x0 = self.model.encode(change(pixels, batch).contiguous(memory_format=self.compute.memory_format))
                level = self.model.schedule.at(time, like=x0)
                total = dict.fromkeys(layers, torch.zeros((), device=x0.device))
                for part in noises:
                    eps = Noise(self.seed, batch).normal(tuple(x0.shape[1:]), Stream.ACTIVATION, part, like=x0)
                    outputs = _outputs(self.model, level.alpha * x0 + level.sigma * eps, level, batch, layers)
                    total = {layer: total[layer] + _pooled(outputs[layer]) for layer in layers}
            for layer, sum_ in total.items():
                found[layer].append((sum_ / len(noises)).cpu())
            done += len(batch)
            on_progress(done / len(ids))
        features = {layer: torch.cat(parts) for layer, parts in found.items()}
        for layer, matrix in features.items():
            if not bool(matrix.isfinite().all()):
                raise UserError(f"the activations of block {layer} are not finite: try --precision fp32")
        return features


def standardized(features: Tensor) -> Tensor:
    """Features with mean 0 and standard deviation 1 of each number over the images; constant ones are 0."""
    centred = features - features.mean(0)
    deviation = centred.square().mean(0).sqrt()
    return centred / torch.where(deviation > 1e-6 * deviation.max(), deviation, torch.inf)


def _pooled(output: Tensor) -> Tensor:
    """The average-pooled output of a block, float32 (B, D)."""
    side = next(s for s in (_SIDE, 2, 1) if output.shape[1] * s**2 <= _NUMBERS or s == 1)
    size = (min(side, output.shape[2]), min(side, output.shape[3]))
    return F.adaptive_avg_pool2d(output.float(), size).flatten(1)


def _outputs(model: Model, x: Tensor, level: NoiseLevel, ids: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Outputs of blocks of the network at noisy images, under the null condition."""
    modules = dict(model.network.named_modules())
    outputs: dict[str, Tensor] = {}
    with _hooked({layer: modules[layer] for layer in layers}, outputs):
        _evaluate(model, x, level, ids)
    return outputs


def _evaluate(model: Model, x: Tensor, level: NoiseLevel, ids: Tensor) -> None:
    cond = conditioning_for(model.dataset_info, None, ids)
    try:
        model.denoiser.output(x, level, cond.to(x.device) if cond is not None else None)
    except ValueError as error:
        raise UserError(f"the network cannot be evaluated without a label: {error}") from None


@contextlib.contextmanager
def _hooked(modules: dict[str, nn.Module], outputs: dict[str, Tensor]) -> Iterator[None]:
    """Store what modules return that are images (B, C, H, W), by their names, in the order of their evaluation."""

    def store(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                outputs[name] = output

        return hook

    handles = [module.register_forward_hook(store(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _blocks(model: Model, compute: ComputeConfig) -> tuple[str, ...]:
    """Names of the blocks of a network: the innermost modules with two or more layers whose output is an image."""
    named = {name: module for name, module in model.network.named_modules() if name}
    several = {name: module for name, module in named.items() if sum(map(_has_own_weights, module.modules())) > 1}
    x = torch.zeros(1, *model.shape(None), device=compute.device)
    outputs: dict[str, Tensor] = {}
    with torch.inference_mode(), compute.autocast(), _hooked(several, outputs):
        _evaluate(model, x, model.schedule.at(0.5, like=x), torch.zeros(1, dtype=torch.int64))
    return tuple(name for name in outputs if not any(other.startswith(f"{name}.") for other in outputs))


def _has_own_weights(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None
