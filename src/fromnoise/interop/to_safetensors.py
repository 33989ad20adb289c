"""Export of the network's weights alone, for programs that have the network's code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from fromnoise.config import Recipe, to_toml
from fromnoise.interop.exporting import Exporter
from fromnoise.interop.importing import check_out
from fromnoise.model import AutoencoderModel, Model
from fromnoise.registry import register
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic


@register("exporter", "safetensors")
@dataclass(frozen=True)
class SafetensorsFile(Exporter):
    """The network's weights alone in one .safetensors file, with the recipe as TOML in its metadata."""

    def check_out(self, out: Path) -> None:
        """A new file whose name ends in .safetensors."""
        if out.suffix != ".safetensors":
            raise UserError(f"{out}: give --out a name that ends in .safetensors")
        check_out(out)

    def write(self, model: Model, out: Path) -> list[str]:
        """Write the weights under the names of the network's state dict."""
        _write(model.denoiser.network, model.recipe, out)
        notes = [f"weights of network {model.recipe.network.kind}; its options are in the metadata, under recipe"]
        if model.latent_space is not None:
            notes.append("the network alone: its latents cannot be decoded without the autoencoder of the run")
        return notes

    def write_autoencoder(self, model: AutoencoderModel, out: Path) -> list[str]:
        """Write the weights under the names of the autoencoder's state dict."""
        _write(model.module, model.recipe, out)
        options: Any = model.recipe.autoencoder
        return [f"weights of autoencoder {options.kind}; its options are in the metadata, under recipe"]


def _write(network: nn.Module, recipe: Recipe, out: Path) -> None:
    weights = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    write_atomic(out, save(weights, {"format": "pt", "recipe": to_toml(recipe)}))
