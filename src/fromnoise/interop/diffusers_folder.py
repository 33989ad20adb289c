"""Import of a diffusers folder: ``model_index.json``, ``unet/``, ``scheduler/``; or a bare folder of a UNet2DModel.

The network becomes network ``diffusers``, whose weights keep their names, so that an export returns the same bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.interop.diffusers_schedulers import Scheduler, read_scheduler
from fromnoise.interop.foreign_config import ForeignConfig
from fromnoise.interop.importing import Imported, Importer
from fromnoise.interop.source import Source, read_json, read_safetensors
from fromnoise.networks.diffusers_layers import ACTIVATIONS
from fromnoise.networks.diffusers_unet import DownBlock, UpBlock
from fromnoise.registry import register
from fromnoise.utils.errors import UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULER = Path("scheduler", "scheduler_config.json")
_VARIANTS = (WEIGHTS, "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.safetensors")
_WIDEST = 1 << 16  # channels, layers, classes
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(\.)")


@register("importer", "diffusers")
@dataclass(frozen=True)
class DiffusersFolder(Importer):
    """A folder that diffusers saved: a DDPMPipeline or DDIMPipeline, or its UNet2DModel alone.

    Attributes:
        sampling: file takes sampler, time grid and clipping from the scheduler; default takes those of fromnoise
        scheduler: path of a scheduler_config.json, for a folder without one
        size: side of the images in pixels, for a network without sample_size
        null_class: row of the class embedding that stands for no class; left out: none does
    """

    sampling: Literal["file", "default"] = "file"
    scheduler: str | None = None
    size: int | None = None
    null_class: int | None = None

    title: ClassVar[str] = "a diffusers folder"

    @classmethod
    def recognizes(cls, source: Source) -> bool:
        """A folder with a pipeline's index, a network in ``unet/``, or a network's configuration and weights."""
        network = source.has("config.json") and any(source.path.glob("diffusion_pytorch_model*"))
        return source.has("model_index.json") or source.has("unet/config.json") or network

    def read(self, source: Source) -> Imported:
        """Read a pipeline or a network."""
        if source.has("model_index.json"):
            _check_index(source)
        folder = source.path / "unet" if source.has("unet") else source.path
        config = ForeignConfig(str(folder / "config.json"), read_json(folder / "config.json"))
        scheduler = self._scheduler(source)
        network, info = self._network(config, scheduler.diffusion["learned_variance"])
        weights, notes = _weights(folder)
        recipe: dict[str, Any] = {
            "network": network,
            "diffusion": scheduler.diffusion,
            "sample": scheduler.sample,
            "data": {"source": "", "labels": info.class_names is not None},
        }
        if scheduler.diffusion["learned_variance"]:
            recipe["loss"] = {"objective": "hybrid"}
        unread = [f"{option} is ignored: UNet2DModel has no such option" for option in config.unread()]
        return Imported(recipe, info, weights, [*scheduler.notes, *notes, *unread])

    def _scheduler(self, source: Source) -> Scheduler:
        path = Path(self.scheduler) if self.scheduler is not None else source.path / SCHEDULER
        if not path.exists() and self.scheduler is None:
            found = read_scheduler(ForeignConfig("scheduler", {"_class_name": "DDPMScheduler"}), default_sampling=True)
            note = "no scheduler: 1000 linear betas from 1e-4 to 0.02 and prediction_type epsilon are assumed"
            return Scheduler(found.diffusion, found.sample, [note])
        config = ForeignConfig(str(path), read_json(path))
        try:
            return read_scheduler(config, default_sampling=self.sampling == "default")
        except UserError as error:
            hint = "" if self.sampling == "default" else "; or use --sampling default for fromnoise's sampler"
            raise UserError(f"{error}{hint}") from None

    def _network(self, config: ForeignConfig, learned_variance: bool) -> tuple[dict[str, Any], DatasetInfo]:
        """The options of network ``diffusers``, and the shape and the classes of its data."""
        config.choice("_class_name", "UNet2DModel", ("UNet2DModel",))
        channels = config.integer("in_channels", 3, 1, 1024)
        outputs = channels * (2 if learned_variance else 1)
        if config.integer("out_channels", 3, 1, 2048) != outputs:
            raise config.refuse("out_channels", f"{outputs} for in_channels = {channels} and this variance_type")
        config.choice("class_embed_type", None, (None,))
        rows = config.optional_integer("num_class_embeds", 1, _WIDEST)
        if self.null_class is not None and (rows is None or not 0 <= self.null_class < rows or rows < 2):
            raise UserError(f"--null-class {self.null_class} is no row of {config.name}: num_class_embeds = {rows}")
        classes = None if rows is None else tuple(str(c) for c in range(rows - (self.null_class is not None)))
        levels = config.many("block_out_channels", (224, 448, 672, 896), int, 64)
        table = config.optional_integer("num_train_timesteps", 1, _WIDEST)
        return {
            "kind": "diffusers",
            "center_input_sample": config.flag("center_input_sample", False),
            "time_embedding_type": config.choice("time_embedding_type", "positional", ("positional", "learned")),
            "time_embedding_dim": config.optional_integer("time_embedding_dim", 1, _WIDEST),
            "freq_shift": config.number("freq_shift", 0),
            "flip_sin_to_cos": config.flag("flip_sin_to_cos", True),
            "down_block_types": _kinds(config, "down_block_types", get_args(DownBlock)),
            "mid_block_type": config.choice(
                "mid_block_type", "UNetMidBlock2D", {"UNetMidBlock2D": "UNetMidBlock2D", None: "none"}
            ),
            "up_block_types": _kinds(config, "up_block_types", get_args(UpBlock)),
            "block_out_channels": levels,
            "layers_per_block": config.integer("layers_per_block", 2, 1, 64),
            "mid_block_scale_factor": config.number("mid_block_scale_factor", 1),
            "downsample_padding": config.choice("downsample_padding", 1, (0, 1)),
            "downsample_type": config.choice("downsample_type", "conv", _RESAMPLING),
            "upsample_type": config.choice("upsample_type", "conv", _RESAMPLING),
            "dropout": config.number("dropout", 0.0),
            "act_fn": config.choice("act_fn", "silu", tuple(ACTIVATIONS)),
            "attention_head_dim": _head_dim(config),
            "norm_num_groups": config.integer("norm_num_groups", 32, 1, _WIDEST),
            "attn_norm_num_groups": config.optional_integer("attn_norm_num_groups", 1, _WIDEST),
            "norm_eps": config.number("norm_eps", 1e-5),
            "resnet_time_scale_shift": config.choice("resnet_time_scale_shift", "default", ("default", "scale_shift")),
            "add_attention": config.flag("add_attention", True),
            "num_train_timesteps": table,
            "null_class": self.null_class,
        }, DatasetInfo((channels, *self._size(config)), classes)

    def _size(self, config: ForeignConfig) -> tuple[int, int]:
        """Height and width of the images."""
        value = self.size if self.size is not None else config.get("sample_size", None)
        if value is None:
            raise UserError(f"{config.name} has no sample_size: give the side of the images, as in --size 32")
        sides = [value, value] if isinstance(value, int) else value
        good = isinstance(sides, list | tuple) and len(sides) == 2
        if not good or not all(type(s) is int and 1 <= s <= 16384 for s in sides):
            raise config.refuse("sample_size", "one or two sides in pixels, up to 16384")
        return sides[0], sides[1]


_RESAMPLING = {"conv": "conv", "resnet": "resnet", None: "conv"}
_DEFAULT_KINDS = {
    "down_block_types": ("DownBlock2D", *("AttnDownBlock2D",) * 3),
    "up_block_types": (*("AttnUpBlock2D",) * 3, "UpBlock2D"),
}


def _kinds(config: ForeignConfig, option: str, known: tuple[str, ...]) -> list[str]:
    """The kinds of the levels; the prefix ``UNetRes`` of early versions is left out."""
    kinds = [kind.removeprefix("UNetRes") for kind in config.many(option, _DEFAULT_KINDS[option], str, 64)]
    wrong = next((kind for kind in kinds if kind not in known), None)
    if wrong is not None:
        raise config.refuse(option, f"levels of the kinds {', '.join(known)}")
    return kinds


def _head_dim(config: ForeignConfig) -> int | None:
    """Channels of an attention head; 8 if the file does not say, None for one head."""
    if "attention_head_dim" not in config.values:
        return 8
    return config.optional_integer("attention_head_dim", 1, _WIDEST)


def _check_index(source: Source) -> None:
    """Check that a pipeline consists of a UNet2DModel and a scheduler.

    Raises:
        UserError: it has other parts.
    """
    index = source.json("model_index.json")
    parts = {name: part for name, part in index.items() if not name.startswith("_") and isinstance(part, list)}
    other = sorted(set(parts) - {"unet", "scheduler"})
    if other:
        raise UserError(
            f"{source.path} is a pipeline with {', '.join(other)[:80]}, which fromnoise does not have: "
            "pipelines of a UNet2DModel and a scheduler can be imported"
        )
    if parts.get("unet", ["diffusers", "UNet2DModel"])[-1] != "UNet2DModel":
        raise UserError(f"{source.path}: its unet is a {str(parts['unet'][-1])[:60]!r}; UNet2DModel can be imported")


def _weights(folder: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in float32 by the names of today's versions, and what was converted.

    Raises:
        UserError: there are none.
    """
    path = next((folder / name for name in _VARIANTS if (folder / name).exists()), None)
    if path is None:
        found = next(iter(sorted(p.name for p in folder.glob("diffusion_pytorch_model*"))), None)
        hint = f"it has {found}; save it with safe_serialization=True, in one file" if found else "it is not complete"
        raise UserError(f"{folder} has no {WEIGHTS}: {hint}")
    notes: list[str] = [] if path.name == WEIGHTS else [f"weights of {path.name}"]
    tensors = read_safetensors(path)
    if any(_OLD_NAME.search(name) for name in tensors):
        notes.append("attention weights renamed, as diffusers does: query, key, value, proj_attn to to_q, to_k, ...")
    kinds = {str(t.dtype).removeprefix("torch.") for t in tensors.values()} - {"float32"}
    if kinds:
        notes.append(f"weights converted from {', '.join(sorted(kinds))} to float32")
    return {
        _OLD_NAME.sub(lambda m: m[1] + _OLD_NAMES[m[2]] + m[3], n): t.to(torch.float32) for n, t in tensors.items()
    }, notes
