"""Export to a folder that diffusers opens: by a stock pipeline, or by one that the folder carries if need be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fromnoise.interop.adm_to_diffusers import adm_config
from fromnoise.interop.diffusers_autoencoder import autoencoder_kl
from fromnoise.interop.diffusers_folder import SCHEDULER
from fromnoise.interop.diffusers_weights import VERSION, sides, write_json, write_network
from fromnoise.interop.exporting import Exporter, sampling_with, unwritten_guidance, without_autoguidance
from fromnoise.interop.importing import check_out
from fromnoise.interop.schedulers_to_diffusers import SchedulerFile, write_scheduler
from fromnoise.interop.unet_to_diffusers import unet2d_config, unet2d_weights
from fromnoise.model import AutoencoderModel, Model
from fromnoise.networks.adm_unet import ADMUNet
from fromnoise.networks.diffusers_unet import DiffusersUNet
from fromnoise.networks.layers import ceil_to
from fromnoise.networks.unet import UNet
from fromnoise.registry import register
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic

_CLASS_EMBEDDING = "class_embedding.weight"
FILES = Path(__file__).parent / "diffusers_files"
"""The files of Python that a folder carries where diffusers' own classes are not enough."""


@dataclass(frozen=True)
class _Network:
    """The network of a folder.

    Attributes:
        config: options of its UNet2DModel.
        weights: of that.
        changes: options of ``FromnoiseNetwork``, which has the UNet2DModel within; empty for the UNet2DModel alone.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    changes: dict[str, Any]


@register("exporter", "diffusers")
@dataclass(frozen=True)
class DiffusersExport(Exporter):
    """A folder for diffusers, which then draws the same images from the same noise; or an AutoencoderKL.

    DDPMPipeline or DDIMPipeline opens it; a folder with classes, guidance, sampler unipc, or a network that UNet2DModel
    does not have carries a pipeline of its own.

    Attributes:
        label: class whose images the folder draws, for a conditional model; left out: its pipeline takes class_labels
        sampler: sampler of the scheduler; left out: that of the recipe
        steps: number of steps that the scheduler is checked for; left out: that of the recipe or the sampler
        guidance: guidance scale, for a conditional model without label; left out: that of the recipe
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
        """Write the index, the network, the scheduler, and the files of Python that they need."""
        model.require_pixels("export to diffusers")
        _check_model(model)
        sampling = sampling_with(model, self.sampler, steps=self.steps, guidance=self.guidance)
        sampling, unguided = without_autoguidance(sampling, self.guidance)
        classes = model.dataset_info.class_names if self.label is None else None
        if sampling.guidance != 1 and classes is None:
            reason = "one class" if self.label is not None else "a model without classes"
            raise UserError(f"guidance {sampling.guidance:g} does not apply to {reason}: give --guidance 1")
        refused = unwritten_guidance(model, sampling)
        if refused is not None:
            raise UserError(f"a pipeline of diffusers does not have {refused}: give --guidance 1, or change sample.*")
        network = _network(model)
        if self.label is not None:
            _bake_class(model, network, self.label)
        scheduler = write_scheduler(model, sampling)
        stock = classes is None and not network.changes and scheduler.class_name != "UniPCMultistepScheduler"
        _write_network(out / "unet", network, model.dataset_info.shape)
        write_json(out / SCHEDULER, {"_class_name": scheduler.class_name, **scheduler.config})
        index: dict[str, Any] = {
            "_diffusers_version": VERSION,
            "scheduler": ["diffusers", scheduler.class_name],
            "unet": ["fromnoise_network", "FromnoiseNetwork"] if network.changes else ["diffusers", "UNet2DModel"],
        }
        if stock:
            index["_class_name"] = "DDIMPipeline" if scheduler.class_name == "DDIMScheduler" else "DDPMPipeline"
            arguments = {"num_inference_steps": scheduler.steps, **scheduler.step_options}
            call = f'{index["_class_name"]}.from_pretrained("{out}")({_call(arguments)})'
            notes = [f"draws as fromnoise does, in float32: {call}"]
        else:
            index |= _own_pipeline(model, classes, sampling.guidance, scheduler)
            write_atomic(out / "pipeline.py", (FILES / "pipeline.py").read_bytes())
            notes = _notes_of_own_pipeline(model, out, classes, bool(network.changes))
        write_json(out / "model_index.json", index)
        return [*unguided, *scheduler.notes, *notes]

    def write_autoencoder(self, model: AutoencoderModel, out: Path) -> list[str]:
        """Write an AutoencoderKL."""
        given = [f"--{name}" for name in ("label", "sampler", "steps", "guidance") if getattr(self, name) is not None]
        if given:
            raise UserError(f"an autoencoder takes no {', '.join(given)}: leave it out")
        config, weights = autoencoder_kl(model)
        write_network(out, config, weights)
        return [
            "scaling_factor is 1: a pipeline of diffusers needs 1 / the standard deviation of the latents there",
            f'opened by AutoencoderKL.from_pretrained("{out}")',
        ]


def _call(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in arguments.items())


def _own_pipeline(
    model: Model, classes: tuple[str, ...] | None, guidance: float, scheduler: SchedulerFile
) -> dict[str, Any]:
    """The arguments of ``FromnoisePipeline``, in the index; no lists, which diffusers takes for parts of the pipeline.

    Raises:
        UserError: guidance of a network that cannot leave out the class.
    """
    null = _null_row(model) if classes is not None else None
    if guidance != 1 and null is None:
        raise UserError("guidance needs a network that was trained with images without a class: give --guidance 1")
    return {
        "_class_name": ["pipeline", "FromnoisePipeline"],
        "id2label": None if classes is None else {str(i): name for i, name in enumerate(classes)},
        "null_class": null,
        "guidance_scale": guidance,
        "steps": scheduler.steps,
        "step_options": scheduler.step_options,
    }


def _notes_of_own_pipeline(model: Model, out: Path, classes: tuple[str, ...] | None, network: bool) -> list[str]:
    """How the folder is called, and which code that runs."""
    arguments: dict[str, Any] = {"batch_size": 4}
    if classes is not None:
        arguments["class_labels"] = [classes[0]]
    files = "pipeline.py and unet/fromnoise_network.py" if network else "pipeline.py"
    return [
        f"trust_remote_code runs {files} of this folder, which you can read",
        "draws as fromnoise does, in float32: "
        f'DiffusionPipeline.from_pretrained("{out}", trust_remote_code=True)({_call(arguments)})',
    ]


def _check_model(model: Model) -> None:
    """Refuse what no pipeline of diffusers does.

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


def _network(model: Model) -> _Network:
    """The network in diffusers' terms.

    Raises:
        UserError: it has no counterpart.
    """
    network, options = model.denoiser.network, model.recipe.network
    if isinstance(network, DiffusersUNet) and options.kind == "diffusers":
        values = {name: value for name, value in options.options().items() if name != "null_class"}
        values["mid_block_type"] = None if values["mid_block_type"] == "none" else values["mid_block_type"]
        config, changes, weights = values, {}, dict(network.state_dict())
    elif isinstance(network, ADMUNet) and options.kind == "adm":
        config, changes, weights = adm_config(network, options), {}, dict(network.state_dict())
    elif isinstance(network, UNet) and options.kind == "unet":
        config, changes = unet2d_config(network, options)
        weights = unet2d_weights(network, options.blocks)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        raise UserError(f"network {options.kind} has no counterpart in diffusers: export it --to safetensors")
    channels, height, width = model.dataset_info.shape
    patch, multiple = changes.get("patch", 1), network.multiple
    if height % multiple or width % multiple:
        changes["multiple"] = multiple
    channels *= patch**2
    config = {
        "sample_size": sides(ceil_to(height, multiple) // patch, ceil_to(width, multiple) // patch),
        "in_channels": channels,
        "out_channels": channels * (2 if model.denoiser.learned_variance else 1),
    } | config
    if _CLASS_EMBEDDING in weights:
        config["num_class_embeds"] = len(weights[_CLASS_EMBEDDING])
    return _Network(config, weights, changes)


def _null_row(model: Model) -> int | None:
    """The row of the class embedding that stands for no class: 0 of the U-Net; of imported ones any, or none."""
    return getattr(model.denoiser.network, "null_class", 0)


def _bake_class(model: Model, network: _Network, label: str) -> None:
    """Add the embedding of a class to the bias of the time embedding: an unconditional network for one class.

    Raises:
        UserError: there is no such class.
    """
    if model.dataset_info.class_names is None:
        raise UserError("this model has no classes: leave out --label")
    index = model.dataset_info.class_index(label)
    null = _null_row(model)
    row = index + (null is not None and index >= null)
    bias = "time_embedding.linear_2.bias"
    network.weights[bias] = network.weights[bias] + network.weights.pop(_CLASS_EMBEDDING)[row]
    del network.config["num_class_embeds"]


def _write_network(folder: Path, network: _Network, shape: tuple[int, int, int]) -> None:
    """Write configuration and weights; a changed network with the file of its class."""
    config, prefix = {"_class_name": "UNet2DModel", **network.config}, ""
    if network.changes:
        prefix = "unet."
        own = {"options": network.config, "sample_size": sides(*shape[1:]), "in_channels": shape[0]}
        config = {"_class_name": "FromnoiseNetwork", **own, **network.changes}
        write_atomic(folder / "fromnoise_network.py", (FILES / "fromnoise_network.py").read_bytes())
    write_network(folder, config, {prefix + name: t for name, t in network.weights.items()})
