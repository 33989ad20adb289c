"""The files of a repository on the hub, made from a run."""

from __future__ import annotations

import re

from fromnoise import __version__, checkpoint
from fromnoise.checkpoint import LoadedModel
from fromnoise.config import Recipe, to_toml
from fromnoise.interop.model_card import Card, model_spec, public_source
from fromnoise.pipeline import Pipeline
from fromnoise.reporting import image_io
from fromnoise.reporting.documents import Figure
from fromnoise.utils.errors import UserError
from fromnoise.utils.hub import HubName
from fromnoise.utils.reading import read_bytes

MESSAGE = f"Model of fromnoise {__version__}"
"""Of the commit."""
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


def check_license(license: str | None) -> None:
    """Check that a licence looks like an identifier of the hub; whether it is one is known to the hub.

    Raises:
        UserError: it does not.
    """
    if license is not None and not _LICENSE.fullmatch(license):
        raise UserError(f"--license {license!r} must be an identifier of the hub, such as mit, apache-2.0 or other")


def repository_files(
    loaded: LoadedModel,
    name: HubName,
    *,
    license: str | None = None,
    samples: int = 36,
    seed: int = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> dict[str, bytes]:
    """The files of a repository, by name: the model, its recipe, its reports, samples and the card.

    Where the training images are files of the user, their path is left out of the recipe.

    Args:
        loaded: the run.
        name: of the repository.
        license: its identifier on the hub; None states none.
        samples: number of samples in the grid; 0 for none.
        seed: of the samples.
        device: as of ``Pipeline``.
        progress: as of ``Pipeline.sample``.

    Raises:
        UserError: the file was changed since it was read, or a sample is not finite.
    """
    tensors, header = checkpoint.read(loaded.path)
    recipe = published_recipe(loaded.model.recipe)
    if isinstance(header.get("recipe"), dict) and recipe != loaded.model.recipe:
        header["recipe"]["data"]["source"] = recipe.data.source
    figure = _samples(loaded, samples, seed, device, progress) if samples else None
    card = Card(name, loaded, recipe, license, figure)
    files = {
        "README.md": card.readme().encode(),
        "model.safetensors": checkpoint.serialize(tensors, header, model_spec(card)),
        "recipe.toml": to_toml(recipe).encode(),
    }
    reports = loaded.path.parent / "reports.jsonl"
    if loaded.path.name == "model.safetensors" and reports.is_file():
        files["reports.jsonl"] = read_bytes(reports)
    if figure is not None:
        files["samples.png"] = figure.png()
    return files


def published_recipe(recipe: Recipe) -> Recipe:
    """The recipe without the path of images that are files of the user; names of data sets are kept."""
    source = public_source(recipe.data.source)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})})


def _samples(loaded: LoadedModel, count: int, seed: int, device: str | None, progress: bool | None) -> Figure:
    """A grid of samples by the recipe; classes take turns."""
    model = loaded.model
    label = "all" if model.dataset_info.class_names is not None else None
    pipeline = Pipeline(model, device=device)
    images = pipeline.sample(count, seed=seed, label=label, progress=progress)
    config = model.recipe.sample
    caption = (
        f"{count} samples, not selected: seed {seed}, numbers 0 to {count - 1}, "
        f"{model.steps(config)} steps of sampler {config.sampler.kind}"
        + (f", guidance {config.guidance:g}" if config.guidance != 1 else "")
    )
    return Figure("samples", image_io.grid(images), caption)
