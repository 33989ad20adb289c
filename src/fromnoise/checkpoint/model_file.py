"""Models as files: saved, and loaded after a comparison of the tensors with the network that the header describes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fromnoise import registry
from fromnoise.checkpoint.header import model_header, parse_header, parse_tuned, tuned_header
from fromnoise.checkpoint.tensor_file import DamagedFile, read, write
from fromnoise.config import Recipe
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.samplers import TunedSteps
from fromnoise.model import AutoencoderModel, Model, build, build_trainable
from fromnoise.utils.construction import NoInitialValues, limited
from fromnoise.utils.errors import UserError
from fromnoise.utils.hub import is_hub, open_repository
from fromnoise.utils.model_path import check_model_path
from fromnoise.utils.reading import first_line, printable


def save_model(
    path: str | Path, model: Model | AutoencoderModel, weights: dict[str, Tensor], progress: dict[str, Any]
) -> None:
    """Write what sampling needs: the weights of the denoiser, the recipe, the description of the data and tuned steps.

    Args:
        path: of the file.
        model: whose recipe and data are described.
        weights: state dict of the denoiser or autoencoder, such as its EMA.
        progress: of training, such as {"step": 1000}.

    Raises:
        UserError: as ``write_atomic``.
    """
    header = {"kind": "model", "progress": progress, **model_header(model.recipe, model.dataset_info)}
    write(path, weights, header | (tuned_header(model.tuned) if isinstance(model, Model) else {}))


def save_tuned(loaded: LoadedModel, steps: TunedSteps) -> LoadedModel:
    """Write learned steps into the file of a model, which is otherwise unchanged.

    Args:
        loaded: the model, from a file.
        steps: replace those of the same number.

    Returns:
        The model with the steps.

    Raises:
        UserError: the file has other weights than when it was loaded, or as ``write_atomic``.
    """
    tensors, header = read(loaded.path)
    own = loaded.model.denoiser.state_dict()
    if set(own) != set(tensors) or not all(torch.equal(own[name].cpu().to(t.dtype), t) for name, t in tensors.items()):
        raise UserError(f"{loaded.path} was changed while its steps were tuned: tune again")
    model = replace(loaded.model, tuned={**parse_tuned(header, loaded.path), steps.count: steps})
    write(loaded.path, tensors, header | tuned_header(model.tuned))
    return replace(loaded, model=model)


M = TypeVar("M", Model, AutoencoderModel, Model | AutoencoderModel)


@dataclass(frozen=True)
class Loaded(Generic[M]):
    """A model that was read from a file.

    Attributes:
        model: on the CPU, in evaluation mode.
        progress: of its training.
        path: of the file.
        from_hub: whether it was downloaded, so that ``path`` is in a cache.
    """

    model: M
    progress: dict[str, Any]
    path: Path
    from_hub: bool = False

    @property
    def results(self) -> Path:
        """The folder for results of the model: beside its file, or the current one for a model of the hub."""
        return Path() if self.from_hub else self.path.parent


LoadedModel = Loaded[Model]
"""A diffusion model that was read from a file."""


def load_model(run: str | Path, network: nn.Module | None = None) -> LoadedModel:
    """Load the diffusion model of a run directory or of one .safetensors file, on the CPU, ready to sample.

    Args:
        run: the run directory, the file, or ``hub:owner/name[@revision]``, which is downloaded.
        network: a module for the weights, in place of the one that the file describes.

    Raises:
        UserError: there is none, the file is damaged, it was written by a version with another file format, or it is
            an autoencoder.
    """
    loaded = load_trainable(run, network)
    if isinstance(loaded.model, AutoencoderModel):
        raise UserError(
            f"{loaded.path} is an autoencoder, not a diffusion model: for one in its latent space use fromnoise train "
            f"latent --autoencoder {run} --data SPEC"
        )
    return Loaded(loaded.model, loaded.progress, loaded.path, loaded.from_hub)


def load_autoencoder(run: str | Path) -> AutoencoderModel:
    """Load the autoencoder of a run directory or of one .safetensors file, on the CPU.

    Raises:
        UserError: as ``load_model``, or it is a diffusion model.
    """
    loaded = load_trainable(run)
    if isinstance(loaded.model, Model):
        raise UserError(
            f"{loaded.path} is a diffusion model, not an autoencoder: use a run of fromnoise train autoencoder"
        )
    return loaded.model


def load_trainable(run: str | Path, network: nn.Module | None = None) -> Loaded[Model | AutoencoderModel]:
    """Load what was trained in a run directory: a diffusion model or an autoencoder; as ``load_model``.

    Raises:
        UserError: as ``load_model``.
    """
    from_hub = is_hub(run)
    path = _downloaded(run) if from_hub else Path(run)
    if path.is_dir() and (path / "model.safetensors").exists():
        path = path / "model.safetensors"
    else:
        check_model_path(path)
    tensors, header = read(path)
    if header.get("kind") != "model":
        raise UserError(f"{path} is a state for resuming, not a model: use the model.safetensors of the run directory")
    progress = header.get("progress")
    if not isinstance(progress, dict):
        raise DamagedFile(f"{path}: its header does not describe a model of fromnoise")
    if network is not None and isinstance(header.get("recipe"), dict):
        header["recipe"]["network"] = "custom"
    recipe, dataset_info = parse_header(header, path)
    try:
        model = rebuild(recipe, dataset_info, tensors, network)
    except UserError as error:
        raise type(error)(f"{path}: {error}") from None
    if isinstance(model, Model) and network is None:
        model = replace(model, tuned=parse_tuned(header, path))
    return Loaded(model, progress, path, from_hub)


def _downloaded(run: str | Path) -> Path:
    """The folder of a run of the hub.

    Raises:
        UserError: it cannot be downloaded, or is no run of fromnoise.
    """
    repository = open_repository(run)
    if not repository.is_run:
        raise UserError(
            f"{repository.name} has no recipe.toml of fromnoise: fromnoise import {repository.name} --out RUN reads "
            "repositories of diffusers"
        )
    repository.fetch("model.safetensors")
    return repository.folder


def rebuild(
    recipe: Recipe, dataset_info: DatasetInfo, tensors: dict[str, Tensor], network: nn.Module | None = None
) -> Model | AutoencoderModel:
    """The model of a recipe with given weights, in evaluation mode.

    Args:
        recipe: of the model; its numbers have been checked by ``check_numbers``.
        dataset_info: of its data.
        tensors: state dict of its denoiser or autoencoder.
        network: as of ``load_model``.

    Raises:
        DamagedFile: the weights do not fit the network, or there is no such network.
        UserError: they are not finite, or the recipe is impossible.
    """
    if network is None:
        check_fit(recipe, dataset_info, tensors)
    model = build(recipe, dataset_info, network=network) if network else build_trainable(recipe, dataset_info)
    try:
        model.module.load_state_dict(tensors)
    except RuntimeError:
        raise DamagedFile("its weights do not fit the network that its header describes") from None
    bad = next((name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)
    if bad is not None:
        raise UserError(
            f"its weights are not finite ({printable(bad)}), so it cannot sample: "
            "train again with a lower --train.lr, or use an earlier file"
        )
    model.module.eval()
    return model


def check_fit(recipe: Recipe, dataset_info: DatasetInfo, tensors: dict[str, Tensor]) -> None:
    """Compare the network that a header describes with the tensors of its file, before memory is allocated for it.

    Raises:
        DamagedFile: a name, a shape or the number of layers differs, or the network cannot be constructed.
    """
    mismatch = DamagedFile("its weights do not fit the network that its header describes")
    try:
        with limited(mismatch, len(tensors), 1000 + 20 * len(tensors)), NoInitialValues():
            expected = build_trainable(recipe, dataset_info, device="meta").module.state_dict()
    except UserError:
        raise
    except Exception as error:  # a valid digest says nothing about the values of a header
        parts = [registry.get("network", recipe.network.kind)]
        if recipe.autoencoder is not None:
            parts.append(registry.get("autoencoder", recipe.autoencoder.kind))
        if all(getattr(part, "__module__", "").startswith("fromnoise.") for part in parts):
            reason = first_line(error)
            raise DamagedFile(f"its header does not describe a network of fromnoise ({reason})") from None
        return  # a network of a plug-in may not support the meta device
    kinds = {name: (t.shape, t.is_floating_point()) for name, t in expected.items()}
    if kinds != {name: (t.shape, t.is_floating_point()) for name, t in tensors.items()}:
        raise mismatch
