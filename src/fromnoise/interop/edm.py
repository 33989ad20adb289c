"""Import of EDM: the state dict of an ``EDMPrecond``, or of its ``SongUNet`` (DDPM++) or ``DhariwalUNet`` (ADM)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.interop.adm_weights import ADMWeights
from fromnoise.interop.importing import Imported, Importer
from fromnoise.interop.source import Source
from fromnoise.interop.state_dict import Tensors, below, mapping_of
from fromnoise.registry import register
from fromnoise.utils.errors import UserError

_FIRST = "map_layer0.weight"
_RESIDUAL = {
    "norm1": "norm0",
    "conv1": "conv0",
    "time_emb_proj": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
    "conv_shortcut": "skip",
}
_ATTENTION = {"group_norm": "norm2", "qkv": "qkv", "out": "proj"}
_STEM = re.compile(r"enc\.(\d{1,5})x\1_conv\.weight")
_HEAD = 64  # channels of an attention head of DhariwalUNet


@register("importer", "edm")
@dataclass(frozen=True)
class EDMImporter(Importer):
    """A state dict of NVlabs/edm, .pt or .safetensors: EDMPrecond, SongUNet (DDPM++) or DhariwalUNet (ADM).

    The size of the images and the network are inferred. EDM's preconditioning is assumed: a state dict does not say
    whether it was VP's, VE's or iDDPM's.

    Attributes:
        sigma_data: standard deviation of the training images' values
        sigma_min: smallest noise level of sampling
        sigma_max: largest noise level of sampling
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    title: ClassVar[str] = "a state dict of EDM"

    @classmethod
    def recognizes(cls, source: Source) -> bool:
        """A state dict with the names of its networks."""
        tensors = below(mapping_of(source) or {}, _FIRST)
        return tensors is not None and any(_STEM.fullmatch(name) for name in tensors)

    def read(self, source: Source) -> Imported:
        """Read a network; the process is that of EDM."""
        found = mapping_of(source) or {}
        unet = below(found, _FIRST)
        if unet is None or not self.recognizes(source):
            raise UserError(f"{source.path} has no weights of a network of EDM")
        if "u" in found:
            raise UserError(f"{source.path} has the preconditioning of iDDPM: that of EDM can be imported")
        tensors = Tensors(source.path, unet)
        kept = _check_filters(source, unet)
        song = "out_norm.weight" not in tensors
        side, channels, network, weights = _network(source, tensors, song)
        table = _classes(tensors, weights, song)
        tensors.finish([*kept, "map_augment.weight"])
        if table:
            network["null_class"] = table
        classes = tuple(str(c) for c in range(table)) if table else None
        sampling = {"sampler": "heun", "steps": 18, "grid": "karras"}
        recipe: dict[str, Any] = {
            "network": network,
            "diffusion": {
                "schedule": {"kind": "karras", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max},
                "target": {"kind": "edm", "sigma_data": self.sigma_data},
                "noise_conditioning": "log-sigma",
            },
            "loss": {"time_sampler": {"kind": "lognormal", "mean": -1.2, "std": 1.2}},
            "data": {"source": "", "labels": classes is not None},
            "sample": sampling,
            "published": sampling | {"clip": False},
        }
        notes = [
            f"{'SongUNet (DDPM++)' if song else 'DhariwalUNet (ADM)'}, width {network['width']}, multipliers "
            f"{[float(m) for m in network['multipliers']]}, {network['blocks']} blocks, attention on levels "
            f"{[i for i, a in enumerate(network['attention']) if a]}{f', {table} classes' if table else ''}",
            f"assumed: EDM's preconditioning with sigma_data {self.sigma_data:g}, noise levels from {self.sigma_min:g} "
            f"to {self.sigma_max:g}",
        ]
        if "map_augment.weight" in unet:
            notes.append("the embedding of augmentations is left out, as in EDM's sampling")
        return Imported(recipe, DatasetInfo((channels, side, side), classes), weights.found, notes)


def _check_filters(source: Source, unet: dict[str, Tensor]) -> list[str]:
    """The names of the resampling filters, which are means of 2x2 pixels.

    Raises:
        UserError: it is another network of theirs.
    """
    filters = [name for name in unet if name.endswith(".resample_filter")]
    means = all(unet[n].shape == (1, 1, 2, 2) and bool((unet[n].float() == 0.25).all()) for n in filters)
    other = next(
        (name for name in unet if name == "map_noise.freqs" or re.search("_aux_(down|skip|residual|up)", name)), ""
    )
    if other or not means:
        what = other or "resample_filter"
        raise UserError(f"{source.path} is an NCSN++ ({what}): DDPM++ and ADM of EDM can be imported")
    return filters


def _network(source: Source, tensors: Tensors, song: bool) -> tuple[int, int, dict[str, Any], ADMWeights]:
    """Side and channels of the images, options and weights of network ``adm``."""
    side = next(int(m[1]) for name in tensors.names() if (m := _STEM.fullmatch(name)))
    sides = [side >> level for level in range(side.bit_length())]
    sides = [s for s in sides if f"enc.{s}x{s}_block0.conv1.weight" in tensors]
    if not sides or sides != [side >> level for level in range(len(sides))]:
        raise UserError(f"{source.path} has no block at {side}x{side} pixels: it is of another version")
    weights = ADMWeights(tensors, _RESIDUAL, _ATTENTION)
    blocks = sum(f"enc.{side}x{side}_block{i}.conv1.weight" in tensors for i in range(1000))
    widths = [tensors.shape(f"enc.{s}x{s}_block0.conv1.weight", 4)[0] for s in sides]
    attention = tuple(weights.has_attention(f"enc.{s}x{s}_block0") for s in sides)
    hidden, time_dim = tensors.shape(_FIRST, 2)
    stem, channels, *_ = tensors.shape(f"enc.{side}x{side}_conv.weight", 4)
    bottom = f"dec.{sides[-1]}x{sides[-1]}_in0"
    middle = weights.has_attention(bottom)
    attended = {w for w, a in zip(widths, attention, strict=True) if a} | ({widths[-1]} if middle else set())
    heads = {1} if song else {max(1, w // _HEAD) for w in attended} or {1}
    by_size = not song and all(w % _HEAD == 0 for w in attended)
    if len(heads) > 1 and not by_size:
        raise UserError(f"{source.path} has attention of {sorted(attended)} channels, not all multiples of {_HEAD}")

    def block(name: str, place: str, width: int, index: int | None = None) -> None:
        weights.residual(f"{name}" if index is None else f"{name}.resnets.{index}", place)
        if index is not None:
            count = 1 if song else max(1, width // _HEAD)
            weights.attention(f"{name}.attentions.{index}", place, count, "head channel qkv")

    weights.layer("conv_in", f"enc.{side}x{side}_conv")
    weights.layer("time_embedding.linear_1", "map_layer0")
    weights.layer("time_embedding.linear_2", "map_layer1")
    deepest = len(sides) - 1
    for level, (s, width) in enumerate(zip(sides, widths, strict=True)):
        if level:
            block(f"down_blocks.{level - 1}.downsamplers.0", f"enc.{s}x{s}_down", width)
        for i in range(blocks):
            block(f"down_blocks.{level}", f"enc.{s}x{s}_block{i}", width, i)
        if level < deepest:
            block(f"up_blocks.{deepest - level - 1}.upsamplers.0", f"dec.{s}x{s}_up", width)
        for i in range(blocks + 1):
            block(f"up_blocks.{deepest - level}", f"dec.{s}x{s}_block{i}", width, i)
    block("mid_block", bottom, widths[-1], 0)
    block("mid_block", f"{bottom[:-1]}1", widths[-1], 1)
    weights.layer("conv_norm_out", f"dec.{side}x{side}_aux_norm" if song else "out_norm")
    weights.layer("conv_out", f"dec.{side}x{side}_aux_conv" if song else "out_conv")
    return (
        side,
        channels,
        {
            "kind": "adm",
            "width": stem,
            "multipliers": tuple(w / stem for w in widths),
            "stem_width": None if stem == widths[0] else stem,
            "blocks": blocks,
            "attention": attention,
            "attention_up": "last" if song else "all",
            "middle_attention": middle,
            "heads": next(iter(heads)) if len(heads) == 1 else 1,
            "head_dim": _HEAD if by_size and len(heads) > 1 else None,
            "conditioning": "add" if song else "scale-shift",
            "resample_blocks": True,
            "resample_projection": song,
            "residual_scale": math.sqrt(2) if song else 1.0,
            "groups": 32,
            "group_channels": 4,
            "norm_eps": 1e-6 if song else 1e-5,
            "time_dim": time_dim,
            "hidden_dim": hidden,
            "freq_shift": 1.0 if song else 0.0,
            "flip_sin_to_cos": not song,
            "class_position": "input" if song else "output",
        },
        weights,
    )


def _classes(tensors: Tensors, weights: ADMWeights, song: bool) -> int:
    """Take the embedding of the classes; their number, 0 for none.

    Their input is a one-hot vector w, or zeros for no class: W w sqrt(classes) + b in SongUNet, W w in DhariwalUNet.
    """
    if "map_label.weight" not in tensors:
        return 0
    count = tensors.shape("map_label.weight", 2)[1]
    table = tensors.take("map_label.weight").float().T
    null = torch.zeros(table.shape[1])
    if song:
        null = tensors.take("map_label.bias").float()
        if null.shape != table.shape[1:]:
            raise UserError(f"map_label.bias has the shape {tuple(null.shape)}")
        table = table * math.sqrt(count) + null
    weights.classes(table, null)
    return count
