"""Import of a diffusers folder: ``model_index.json``, ``unet/``, ``scheduler/``; or a bare folder of a UNet2DModel.

The network becomes network ``diffusers``, whose weights keep their names, so that an export returns the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.interop.diffusers_autoencoder import is_autoencoder
from fromnoise.interop.diffusers_schedulers import Scheduler, read_scheduler
from fromnoise.interop.diffusers_weights import STEM, WIDEST, image_size, read_weights
from fromnoise.interop.foreign_config import ForeignConfig
from fromnoise.interop.importing import Imported, Importer
from fromnoise.interop.source import Source, read_json
from fromnoise.networks.diffusers_layers import ACTIVATIONS
from fromnoise.networks.diffusers_unet import DownBlock, UpBlock
from fromnoise.registry import register
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import printable

SCHEDULER = Path("scheduler", "scheduler_config.json")


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
        """A folder with a pipeline's index, a network in ``unet/``, or a network's configuration; no autoencoder."""
        if is_autoencoder(source):
            return False
        if source.has("model_index.json") or source.has("unet/config.json"):
            return True
        try:
            return source.has("config.json") and "_class_name" in source.json("config.json")
        except UserError:
            return any(source.path.glob(f"{STEM}*"))

    def read(self, source: Source) -> Imported:
        """Read a pipeline or a network."""
        index = _check_index(source) if source.has("model_index.json") else {}
        inside = "unet/" if source.has("unet") else ""
        folder = source.path / inside
        config = ForeignConfig(str(folder / "config.json"), read_json(folder / "config.json"))
        scheduler = self._scheduler(source)
        network, info = self._network(config, scheduler.diffusion["learned_variance"], index)
        weights, notes = read_weights(source, inside)
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
        path = source.path / (SCHEDULER.name if source.has(SCHEDULER.name) else SCHEDULER)
        path = path if self.scheduler is None else Path(self.scheduler)
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

    def _network(
        self, config: ForeignConfig, learned_variance: bool, index: dict[str, Any]
    ) -> tuple[dict[str, Any], DatasetInfo]:
        """The options of network ``diffusers``, and the shape and the classes of its data."""
        config.choice("_class_name", "UNet2DModel", ("UNet2DModel",))
        channels = config.integer("in_channels", 3, 1, 1024)
        outputs = channels * (2 if learned_variance else 1)
        if config.integer("out_channels", 3, 1, 2048) != outputs:
            raise config.refuse("out_channels", f"{outputs} for in_channels = {channels} and this variance_type")
        config.choice("class_embed_type", None, (None,))
        rows = config.optional_integer("num_class_embeds", 1, WIDEST)
        null = self.null_class
        if null is None and type(index.get("null_class")) is int:  # of a pipeline that fromnoise exported
            null = index["null_class"]
        if null is not None and (rows is None or not 0 <= null < rows or rows < 2):
            raise UserError(f"--null-class {null} is no row of {config.name}: num_class_embeds = {rows}")
        classes = None if rows is None else _class_names(index, rows - (null is not None))
        levels = config.many("block_out_channels", (224, 448, 672, 896), int, 64)
        table = config.optional_integer("num_train_timesteps", 1, WIDEST)
        return {
            "kind": "diffusers",
            "center_input_sample": config.flag("center_input_sample", False),
            "time_embedding_type": config.choice("time_embedding_type", "positional", ("positional", "learned")),
            "time_embedding_dim": config.optional_integer("time_embedding_dim", 1, WIDEST),
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
            "norm_num_groups": config.integer("norm_num_groups", 32, 1, WIDEST),
            "attn_norm_num_groups": config.optional_integer("attn_norm_num_groups", 1, WIDEST),
            "norm_eps": config.number("norm_eps", 1e-5),
            "resnet_time_scale_shift": config.choice("resnet_time_scale_shift", "default", ("default", "scale_shift")),
            "add_attention": config.flag("add_attention", True),
            "num_train_timesteps": table,
            "null_class": null,
        }, DatasetInfo((channels, *image_size(config, self.size)), classes)


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
    return config.optional_integer("attention_head_dim", 1, WIDEST)


def _class_names(index: dict[str, Any], count: int) -> tuple[str, ...]:
    """The names of the classes in a pipeline's ``id2label``, or their numbers."""
    named = index.get("id2label")
    numbers = tuple(map(str, range(count)))
    if not isinstance(named, dict) or set(named) != set(numbers):
        return numbers
    names = tuple(printable(str(named[number]))[:200] for number in numbers)
    return names if len(set(names)) == count else numbers


def _check_index(source: Source) -> dict[str, Any]:
    """The index of a pipeline of a UNet2DModel and a scheduler.

    Raises:
        UserError: it has other parts.
    """
    index = source.json("model_index.json")
    parts = {name: part for name, part in index.items() if not name.startswith("_") and isinstance(part, list)}
    other = sorted(set(parts) - {"unet", "scheduler"})
    if other:
        raise UserError(
            f"{source.name} is a pipeline with {', '.join(other)[:80]}, which fromnoise does not have: "
            "pipelines of a UNet2DModel and a scheduler can be imported"
        )
    if parts.get("unet", ["diffusers", "UNet2DModel"])[-1:] != ["UNet2DModel"]:
        raise UserError(f"{source.name}: its unet is a {str(parts['unet'])[-60:]!r}; UNet2DModel can be imported")
    return index
