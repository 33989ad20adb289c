"""Import of Brian Pulfer's tutorial: the state dict of ``MyDDPM``, or of its network ``MyUNet``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.interop.importing import Imported, Importer, tutorial_recipe
from fromnoise.interop.source import Source
from fromnoise.interop.state_dict import Tensors, below, mapping_of
from fromnoise.networks.embeddings import sinusoid_table
from fromnoise.registry import register
from fromnoise.utils.errors import UserError

_FIRST = "time_embed.weight"
_LEVELS = {
    "1": "level1",
    "2": "level2",
    "3": "level3",
    "_mid": "middle",
    "4": "level4",
    "5": "level5",
    "_out": "level6",
}
_RESAMPLING = ("down1", "down2", "down3.0", "down3.2", "up1.0", "up1.2", "up2", "up3")


@register("importer", "pulfer")
@dataclass(frozen=True)
class Pulfer(Importer):
    """A .pt of Pulfer's tutorial: the state dict of MyDDPM or of MyUNet, for images of 28x28 pixels.

    The table of sinusoids is taken from the file, so files of the earlier code, whose table has other frequencies, give
    the same outputs as there.

    Attributes:
        beta_start: min_beta
        beta_end: max_beta
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02

    title: ClassVar[str] = "a .pt of Pulfer's tutorial"

    @classmethod
    def recognizes(cls, source: Source) -> bool:
        """A state dict with the names of its network."""
        tensors = below(mapping_of(source) or {}, _FIRST)
        return tensors is not None and {"te1.0.weight", "b_mid.0.conv1.weight", "conv_out.weight"} <= tensors.keys()

    def read(self, source: Source) -> Imported:
        """Read the network; the betas are those of the options."""
        found = below(mapping_of(source) or {}, _FIRST)
        if found is None:
            raise UserError(f"{source.path} has no weights of Pulfer's tutorial")
        tensors = Tensors(source.path, found)
        steps, time_dim = tensors.shape(_FIRST, 2)
        channels = tensors.shape("conv_out.weight", 4)[0]
        side = _side(tensors, source)
        table = found[_FIRST]
        weights = _renamed(tensors)
        tensors.finish()
        own = torch.allclose(table.float(), sinusoid_table(steps, time_dim), atol=1e-4)
        notes = [
            f"{steps} timesteps, linear betas from {self.beta_start:g} to {self.beta_end:g}; the table of sinusoids is "
            + ("that of network pulfer" if own else "another than that of network pulfer, and is kept")
        ]
        recipe = tutorial_recipe(
            {"kind": "pulfer", "time_dim": time_dim}, steps, self.beta_start, self.beta_end, variance=1.0
        )
        return Imported(recipe, DatasetInfo((channels, side, side)), weights, notes)


def _side(tensors: Tensors, source: Source) -> int:
    """The side of the images, which the first normalization is made for."""
    channels, *side = tensors.shape("b1.0.ln.weight", 3)
    if side[0] != side[1] or side[0] % 8 != 4 or channels != tensors.shape("conv_out.weight", 4)[0]:
        raise UserError(f"{source.path} is for images of {'x'.join(map(str, side))}, not square with a side of 28")
    return side[0]


def _renamed(tensors: Tensors) -> dict[str, Tensor]:
    """The weights by the names of network ``pulfer``."""
    names: Mapping[str, str] = {
        **{f"{level}.time.{i}": f"te{suffix}.{i}" for suffix, level in _LEVELS.items() for i in (0, 2)},
        **{
            f"{level}.block{i + 1}.{ours}": f"b{suffix}.{i}.{theirs}"
            for suffix, level in _LEVELS.items()
            for i in range(3)
            for ours, theirs in (("norm", "ln"), ("conv1", "conv1"), ("conv2", "conv2"))
        },
        **{name: name for name in _RESAMPLING},
        "out": "conv_out",
    }
    weights = {
        f"{ours}.{kind}": tensors.take(f"{theirs}.{kind}")
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    return {"table": tensors.take(_FIRST)} | weights
