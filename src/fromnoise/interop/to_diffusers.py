"""Export to a folder that DDPMPipeline or DDIMPipeline of diffusers opens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from fromnoise.config import SamplingConfig
from fromnoise.interop.adm_to_diffusers import adm_config
from fromnoise.interop.diffusers_folder import SCHEDULER, WEIGHTS
from fromnoise.interop.exporting import Exporter
from fromnoise.interop.importing import check_out
from fromnoise.interop.schedulers_to_diffusers import write_scheduler
from fromnoise.interop.unet_to_diffusers import unet2d_config, unet2d_weights
from fromnoise.model import Model, with_sampler
from fromnoise.networks.adm_unet import ADMUNet
from fromnoise.networks.diffusers_unet import DiffusersUNet
from fromnoise.networks.unet import UNet
from fromnoise.registry import register
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic

_VERSION = "0.42.1"
"""The version of diffusers with which the tests compare."""
_CLASS_EMBEDDING = "class_embedding.weight"


@register("exporter", "diffusers")
@dataclass(frozen=True)
class DiffusersExport(Exporter):
    """A folder for DDPMPipeline or DDIMPipeline of diffusers, which then draws the same images from the same noise.

    Attributes:
        label: class whose images the folder draws, for a conditional model; left out: its network takes class_labels
        sampler: sampler of the scheduler; left out: that of the recipe
        steps: number of steps that the scheduler is checked for; left out: that of the recipe or the sampler
        guidance: 1 exports a model whose recipe samples with guidance without it
    """

    label: str | None = None
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None

    def check_out(self, out: Path) -> None:
        """A new or empty folder."""
        check_out(out)
        if out.suffix == ".safetensors":
            raise UserError(f"{out}: give --out the name of a folder")

    def write(self, model: Model, out: Path) -> list[str]:
        """Write the index, the network and the scheduler."""
        _check_model(model)
        config, weights = _network(model)
        notes = []
        if model.dataset_info.class_names is not None:
            if self.label is not None:
                _bake_class(model, config, weights, self.label)
            else:
                first = "row 0 is no class, row c + 1 is class c" if isinstance(model.denoiser.network, UNet) else ""
                notes.append(
                    "the pipelines of diffusers pass no classes: call the unet with class_labels"
                    f"{f' ({first})' if first else ''}, or export one class with --label"
                )
        elif self.label is not None:
            raise UserError("this model has no classes: leave out --label")
        scheduler = write_scheduler(model, self._sampling(model))
        pipeline = "DDIMPipeline" if scheduler.class_name == "DDIMScheduler" else "DDPMPipeline"
        index = {
            "_class_name": pipeline,
            "_diffusers_version": _VERSION,
            "scheduler": ["diffusers", scheduler.class_name],
            "unet": ["diffusers", "UNet2DModel"],
        }
        weights = {name: t.detach().cpu().contiguous() for name, t in weights.items()}
        write_atomic(out / "unet" / WEIGHTS, save(weights, {"format": "pt"}))
        _write_json(out / "unet" / "config.json", {"_class_name": "UNet2DModel", **config})
        _write_json(out / SCHEDULER, {"_class_name": scheduler.class_name, **scheduler.config})
        _write_json(out / "model_index.json", index)
        if scheduler.call:
            call = f'{pipeline}.from_pretrained("{out}")({scheduler.call})'
            notes.append(f"draws as fromnoise does, in float32: {call}")
        return [*scheduler.notes, *notes]

    def _sampling(self, model: Model) -> SamplingConfig:
        """The sampling of the recipe with the options."""
        config = model.recipe.sample
        changed = {k: v for k, v in (("steps", self.steps), ("guidance", self.guidance)) if v is not None}
        try:
            if self.sampler is not None:
                config = with_sampler(config, self.sampler)
            return config.model_copy(update=changed)
        except ValidationError as error:
            raise UserError(f"--sampler, --steps: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _check_model(model: Model) -> None:
    """Refuse what no UNet2DModel does.

    Raises:
        UserError: with the reason.
    """
    conditioning = model.recipe.diffusion.noise_conditioning
    as_step = conditioning.kind == "timestep" and conditioning.options() == {"rescale_to": None}
    reasons = {
        f"noise conditioning {conditioning.kind} other than the timestep: diffusers passes that": not as_step,
        "pseudo-labels: diffusers has no clusters to sample from": model.denoiser.pseudo_labels is not None,
        "attributes: diffusers has classes alone": model.dataset_info.attributes is not None,
        "self-conditioning: diffusers' pipelines do not pass the last estimate": model.denoiser.self_conditioning,
    }
    reason = next((text for text, true in reasons.items() if true), None)
    if reason is not None:
        raise UserError(f"this model cannot be exported to diffusers; it has {reason}")
    multiple = getattr(model.denoiser.network, "multiple", 1)
    height, width = model.dataset_info.shape[1:]
    if height % multiple or width % multiple:
        raise UserError(
            f"diffusers' UNet2DModel does not pad {height}x{width} pixels to multiples of {multiple}: "
            "train with --data.size of such sides"
        )


def _network(model: Model) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of the UNet2DModel.

    Raises:
        UserError: the network has no counterpart.
    """
    network, options = model.denoiser.network, model.recipe.network
    channels, height, width = model.dataset_info.shape
    config: dict[str, Any] = {
        "_diffusers_version": _VERSION,
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels * (2 if model.denoiser.learned_variance else 1),
    }
    if isinstance(network, DiffusersUNet) and options.kind == "diffusers":
        values = {name: value for name, value in options.options().items() if name != "null_class"}
        values["mid_block_type"] = None if values["mid_block_type"] == "none" else values["mid_block_type"]
        config, weights = config | values, dict(network.state_dict())
    elif isinstance(network, ADMUNet) and options.kind == "adm":
        config, weights = config | adm_config(network, options), dict(network.state_dict())
    elif isinstance(network, UNet) and options.kind == "unet":
        config, weights = config | unet2d_config(network, options), unet2d_weights(network, options.blocks)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        raise UserError(f"network {options.kind} has no counterpart in diffusers: export it --to safetensors")
    if _CLASS_EMBEDDING in weights:
        config["num_class_embeds"] = len(weights[_CLASS_EMBEDDING])
    return config, weights


def _bake_class(model: Model, config: dict[str, Any], weights: dict[str, Tensor], label: str) -> None:
    """Add the embedding of a class to the bias of the time embedding: an unconditional network for one class.

    Raises:
        UserError: there is no such class.
    """
    index = model.dataset_info.class_index(label)
    network = model.denoiser.network
    row = index + 1
    if isinstance(network, DiffusersUNet | ADMUNet):
        row = index + (network.null_class is not None and index >= network.null_class)
    bias = "time_embedding.linear_2.bias"
    weights[bias] = weights[bias] + weights.pop(_CLASS_EMBEDDING)[row]
    del config["num_class_embeds"]


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())
