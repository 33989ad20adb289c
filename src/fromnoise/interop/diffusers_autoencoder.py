"""Autoencoders of diffusers, ``AutoencoderKL``: import of a folder, and what an export writes.

The network becomes autoencoder ``diffusers``, whose weights keep their names, so that an export returns the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.interop.diffusers_weights import WIDEST, image_size, read_weights, sides
from fromnoise.interop.foreign_config import ForeignConfig
from fromnoise.interop.importing import Imported, Importer
from fromnoise.interop.source import Source, read_json
from fromnoise.model import AutoencoderModel
from fromnoise.networks.diffusers_autoencoder import DiffusersAutoencoder
from fromnoise.networks.diffusers_layers import ACTIVATIONS
from fromnoise.registry import register
from fromnoise.utils.errors import UserError

_CLASS = "AutoencoderKL"
_PREFIX = "layers."  # of the library's names in ours
_SCALE = "log_scale"
_STANDARDIZATION = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
_UNUSED = ("force_upcast", "sample_size")


def is_autoencoder(source: Source) -> bool:
    """Whether a folder is an AutoencoderKL, or has an autoencoder in ``vae/``."""
    if source.has("vae/config.json"):
        return True
    try:
        return source.has("config.json") and source.json("config.json").get("_class_name") == _CLASS
    except UserError:
        return False


@register("importer", "diffusers-autoencoder")
@dataclass(frozen=True)
class DiffusersAutoencoderFolder(Importer):
    """A folder of an AutoencoderKL that diffusers saved, alone or in ``vae/`` of a pipeline.

    Attributes:
        size: side of the images in pixels; left out: sample_size of its configuration
    """

    size: int | None = None

    title: ClassVar[str] = "a diffusers folder"

    @classmethod
    def recognizes(cls, source: Source) -> bool:
        """A configuration of this class, or a folder ``vae/`` with one of any class."""
        return is_autoencoder(source)

    def read(self, source: Source) -> Imported:
        """Read an autoencoder."""
        inside = "vae/" if source.has("vae/config.json") else ""
        path = source.path / inside / "config.json"
        config = ForeignConfig(str(path), read_json(path))
        options, info = self._network(config)
        weights, notes = read_weights(source, inside)
        weights = {_PREFIX + name: t for name, t in weights.items()}
        weights[_SCALE] = torch.full((info.shape[0],), math.log(0.1))
        named = [option for option in _STANDARDIZATION if config.get(option, None) is not None]
        if named:
            notes.append(f"{', '.join(named)} not used: latents are standardized, each channel over the training set")
        if inside:
            notes.append("of this folder only the autoencoder in vae/ is imported")
        notes.append("the scale of its pixels' distribution is unknown: 0.1 is assumed, which bits depends on")
        for option in _UNUSED:
            config.get(option, None)
        unread = [f"{option} is ignored: {_CLASS} has no such option" for option in config.unread()]
        recipe = {"data": {"source": ""}, "autoencoder": options, "reconstruction": {"kind": "regularized"}}
        return Imported(recipe, info, weights, [*notes, *unread])

    def _network(self, config: ForeignConfig) -> tuple[dict[str, Any], DatasetInfo]:
        """The options of autoencoder ``diffusers``, and the shape of its images."""
        config.choice("_class_name", _CLASS, (_CLASS,))
        channels = config.integer("in_channels", 3, 1, 1024)
        if config.integer("out_channels", 3, 1, 1024) != channels:
            raise config.refuse("out_channels", f"in_channels, {channels}")
        widths = config.many("block_out_channels", (64,), int, 16)
        for option, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            if config.many(option, (kind,), str, 16) != [kind] * len(widths):
                raise config.refuse(option, f"{kind} for each of the {len(widths)} block_out_channels")
        height, width = image_size(config, self.size)
        factor = 2 ** max(0, len(widths) - 1)
        if height % factor or width % factor:
            raise UserError(
                f"{config.name}: images of {height}x{width} do not fit: give --size, a multiple of {factor}"
            )
        return {
            "kind": "diffusers",
            "block_out_channels": widths,
            "layers_per_block": config.integer("layers_per_block", 1, 1, 64),
            "latent_channels": config.integer("latent_channels", 4, 1, 1024),
            "norm_num_groups": config.integer("norm_num_groups", 32, 1, WIDEST),
            "act_fn": config.choice("act_fn", "silu", tuple(ACTIVATIONS)),
            "mid_block_add_attention": config.flag("mid_block_add_attention", True),
            "use_quant_conv": config.flag("use_quant_conv", True),
            "use_post_quant_conv": config.flag("use_post_quant_conv", True),
        }, DatasetInfo((channels, height, width))


def autoencoder_kl(model: AutoencoderModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights of an AutoencoderKL that encodes and decodes as a model does.

    Args:
        model: with autoencoder ``diffusers``.

    Raises:
        UserError: it has another autoencoder.
    """
    options: Any = model.recipe.autoencoder
    if options.kind != "diffusers" or not isinstance(model.module, DiffusersAutoencoder):
        raise UserError(
            f"autoencoder {options.kind} has other layers than diffusers' {_CLASS}: export it --to safetensors, or "
            "train one with --autoencoder.kind diffusers"
        )
    channels, height, width = model.dataset_info.shape
    values = {name: value for name, value in options.options().items() if name != "decoder"}
    levels = len(values["block_out_channels"])
    config = {
        "_class_name": _CLASS,
        "in_channels": channels,
        "out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "sample_size": sides(height, width),
        "scaling_factor": 1.0,
    }
    state = model.module.state_dict()
    return config | values, {n.removeprefix(_PREFIX): t for n, t in state.items() if n != _SCALE}
