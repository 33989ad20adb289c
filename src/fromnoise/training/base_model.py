"""Runs that start from a trained model: its weights are the initial ones, and it stays as the frozen base.

The file of the base is copied into the run directory, so that a run resumes after its base was moved or trained on.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fromnoise import checkpoint
from fromnoise.model import AutoencoderModel, Model
from fromnoise.run_dir import RunDir
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


def with_base(
    model: Model | AutoencoderModel, compute: ComputeConfig, run_dir: RunDir | None = None
) -> Model | AutoencoderModel:
    """The model with the weights of ``train.init_from``, which becomes its base, if its recipe names one.

    Args:
        model: with initial weights, which change in place.
        compute: device and memory format of the base.
        run_dir: whose own copy counts once the run has begun; None for a model that is trained in memory.

    Raises:
        UserError: there is no such model, or its layers, images or labels differ.
    """
    source = model.recipe.train.init_from
    if not source:
        return model
    if isinstance(model, AutoencoderModel):
        raise UserError("train.init_from is for diffusion models: leave it out for an autoencoder")
    kept = run_dir.base_file if run_dir is not None and run_dir.base_file.exists() else None
    base = checkpoint.load_model(kept or source).model
    for name, of_base, here in (
        ("shape", base.dataset_info.shape, model.dataset_info.shape),
        ("labels", base.dataset_info.class_names, model.dataset_info.class_names),
    ):
        if of_base != here:
            raise UserError(f"{source} was trained on images of {name} {of_base}, not {here}: use the data of that run")
    try:
        model.denoiser.load_state_dict(_weights_of(base, model.denoiser.state_dict()))
    except RuntimeError:
        raise UserError(
            f"the network of {source} has other layers than section network of the recipe: use its recipe.toml"
        ) from None
    compute.to_device(base.denoiser).requires_grad_(False)
    return replace(model, base=base)


def _weights_of(base: Model, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the base, with the weaker version of ``own``, if any, in place of its own."""
    state = {name: t for name, t in base.denoiser.state_dict().items() if not name.startswith("weak_")}
    return state | {name: t for name, t in own.items() if name.startswith("weak_")}


def keep_base(model: Model | AutoencoderModel, run_dir: RunDir) -> None:
    """Write the base of a new run into its directory, which is open.

    Raises:
        UserError: the file cannot be written.
    """
    if isinstance(model, Model) and model.base is not None and not run_dir.has_states:
        checkpoint.save_model(run_dir.base_file, model.base, model.base.denoiser.state_dict(), {"step": 0})
