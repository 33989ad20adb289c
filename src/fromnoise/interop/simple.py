"""Import of the tutorial network ``simple``, by the shapes of its layers: copies of it name them differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.interop.importing import Imported, Importer, tutorial_recipe
from fromnoise.interop.source import Source
from fromnoise.interop.state_dict import mapping_of
from fromnoise.registry import register
from fromnoise.utils.errors import UserError

_TIME = 32
_BLOCKS = {
    (64, 32): "down2",
    (128, 64): "down3",
    (128, 128): "middle",
    (64, 256): "up3",
    (32, 128): "up2",
    (32, 64): "up1",
}
_SIDE = 28


@register("importer", "simple")
@dataclass(frozen=True)
class SimpleImporter(Importer):
    """A .pt of the tutorial network simple: max-pooling, bilinear upsampling, GroupNorm(8), 858,753 weights.

    Layers are identified by their shapes, and the two convolutions and normalizations of a block by their order, so
    that any names of modules will do.

    Attributes:
        size: side of the images in pixels; 28 if left out
        timesteps: number of timesteps; 1000 if left out
        beta_start: first beta
        beta_end: last beta
    """

    size: int | None = None
    timesteps: int | None = None
    beta_start: float = 1e-4
    beta_end: float = 0.02

    title: ClassVar[str] = "a .pt of the tutorial network simple"

    @classmethod
    def recognizes(cls, source: Source) -> bool:
        """A state dict with the layers of that network."""
        return _weights(mapping_of(source)) is not None

    def read(self, source: Source) -> Imported:
        """Read the network; the betas are those of the options."""
        weights = _weights(mapping_of(source))
        if weights is None:
            raise UserError(f"{source.path} has not the layers of network simple")
        steps = 1000 if self.timesteps is None else self.timesteps
        side = _SIDE if self.size is None else self.size
        recipe = tutorial_recipe("simple", steps, self.beta_start, self.beta_end, variance=0.0)
        betas = f"linear betas from {self.beta_start:g} to {self.beta_end:g}"
        note = f"assumed: {steps} timesteps, {betas}, images of {side}x{side}"
        channels = weights["out.weight"].shape[0]
        return Imported(recipe, DatasetInfo((channels, side, side)), weights, [note])


Layer = tuple[Tensor, Tensor]
"""Weight and bias."""


def _weights(found: Mapping[str, Any] | None) -> dict[str, Tensor] | None:
    """The weights by the names of network ``simple``; None if they are not those of such a network.

    The layers of a block follow each other in a state dict: the layers but the last convolution and the first linear
    layer are seven times two convolutions, two normalizations and a linear layer, in the same order in each block.
    """
    layers = _layers(found or {})
    outs = [i for i, (weight, _) in enumerate(layers) if weight.ndim == 4 and weight.shape[1:] == (_TIME, 1, 1)]
    if len(layers) != 2 + 5 * (1 + len(_BLOCKS)) or len(outs) != 1:
        return None
    last = layers.pop(outs[0])
    for place in range(0, len(layers), 5):
        first, rest = layers[place], layers[:place] + layers[place + 1 :]
        if first[0].shape != (_TIME, _TIME):
            continue
        ours = {"time.weight": first[0], "time.bias": first[1], "out.weight": last[0], "out.bias": last[1]}
        fives = [rest[i : i + 5] for i in range(0, len(rest), 5)]
        if len({tuple(weight.ndim for weight, _ in five) for five in fives}) > 1:
            continue
        groups = [_block(five, len(last[0])) for five in fives]
        if None not in groups and len({name for group in groups for name in group or {}}) == 10 * len(groups):
            return ours | {name: tensor for group in groups for name, tensor in (group or {}).items()}
    return None


def _layers(found: Mapping[str, Any]) -> list[Layer]:
    """Weight and bias of each layer, in the order of the file; tensors of other names are left out."""
    pairs = []
    for name, weight in found.items():
        bias = found.get(name.removesuffix("weight") + "bias")
        if name.endswith("weight") and isinstance(weight, Tensor) and isinstance(bias, Tensor):
            pairs.append((weight, bias))
    return pairs


def _block(layers: list[Layer], channels: int) -> dict[str, Tensor] | None:
    """The weights of a block by the names of network ``simple``; None if it has none of such shapes.

    Args:
        layers: five.
        channels: of the images.
    """
    convolutions, norms, linear = (
        [layer for layer in layers if layer[0].ndim == dimensions] for dimensions in (4, 1, 2)
    )
    if (len(convolutions), len(norms), len(linear)) != (2, 2, 1):
        return None
    outs, ins, *kernel = convolutions[0][0].shape
    name = "down1" if (outs, ins) == (32, channels) else _BLOCKS.get((outs, ins))
    shapes = [tuple(layer[0].shape) for layer in (convolutions[1], *norms, linear[0])]
    if name is None or kernel != [3, 3] or shapes != [(outs, outs, 3, 3), (outs,), (outs,), (outs, _TIME)]:
        return None
    named = dict(zip(("conv1", "conv2", "norm1", "norm2", "time"), (*convolutions, *norms, *linear), strict=True))
    return {
        f"{name}.{part}.{kind}": t
        for part, pair in named.items()
        for kind, t in zip(("weight", "bias"), pair, strict=True)
    }
