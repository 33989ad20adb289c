"""What an importer is, which one reads a source, and how its result becomes a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from fromnoise import checkpoint, registry
from fromnoise.config import Recipe, change, parse
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.schedules import BetaSchedule, zero_terminal_snr
from fromnoise.diffusion.value_range import TARGETS, ValueRange, schedule_for_range
from fromnoise.interop.options import build_with_options
from fromnoise.interop.source import Source
from fromnoise.model import AutoencoderModel, Model
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import check_file, check_folder
from fromnoise.utils.hub import is_hub, open_repository


@dataclass(frozen=True)
class Imported:
    """What an importer makes of a source.

    Attributes:
        recipe: nested values of the recipe that describe the model: network, diffusion, loss, sample; of an
            autoencoder, autoencoder and reconstruction. Sections that have no meaning for it are left out.
        info: shape of the images and names of the classes.
        weights: state dict of the network or autoencoder, by the names of its kind in ``recipe``.
        notes: one line for each thing that was inferred, assumed or differs from the foreign program.
    """

    recipe: dict[str, Any]
    info: DatasetInfo
    weights: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


class Importer(ABC):
    """Reads the models of one foreign format; the typed attributes of a frozen dataclass are its options.

    Attributes:
        title: of the format, in messages.
    """

    title: ClassVar[str]

    @classmethod
    @abstractmethod
    def recognizes(cls, source: Source) -> bool:
        """Whether a source has this format; called for every source, so it must not raise."""

    @abstractmethod
    def read(self, source: Source) -> Imported:
        """Read a model.

        Raises:
            UserError: it has an option that cannot be imported, or is damaged; the message names it.
        """


@dataclass(frozen=True)
class ImportedModel:
    """A model that was imported.

    Attributes:
        model: on the CPU, in evaluation mode.
        format: name of the importer.
        notes: as of ``Imported``.
    """

    model: Model | AutoencoderModel
    format: str
    notes: list[str]

    def save(self, path: Path) -> None:
        """Write the model as a run directory's model.safetensors, or as a file if the path ends so.

        Raises:
            UserError: it cannot be written.
        """
        file = path if path.suffix == ".safetensors" else path / "model.safetensors"
        checkpoint.save_model(file, self.model, self.model.module.state_dict(), {"step": 0})


def find(source: Source) -> str | None:
    """The name of the importer that recognizes a source; None if none does.

    Raises:
        UserError: it is a pickle that cannot be read.
    """
    if source.is_pickle:
        source.pickle  # noqa: B018  a pickle that calls functions is refused as such
    return next((n for n in registry.names("importer") if registry.get("importer", n).recognizes(source)), None)  # pyright: ignore[reportFunctionMemberAccess]


def is_foreign(path: str | Path) -> bool:
    """Whether a path or a repository is a model of another program that is read without opening a pickle.

    Raises:
        UserError: the repository cannot be read.
    """
    if is_hub(path):
        return not open_repository(path).is_run
    folder = Path(path)
    if not folder.exists() or (folder / "model.safetensors").exists():
        return False
    return find(Source(folder)) is not None


def import_model(
    path: str | Path,
    format: str | None = None,
    options: dict[str, Any] | None = None,
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
    read_pickles: bool = False,
    on_notice: Callable[[str], object] = lambda line: None,
) -> ImportedModel:
    """Import a model of another program.

    Args:
        path: folder or file, or ``hub:owner/name[@revision]``.
        format: name of an importer; None is the one that recognizes the source.
        options: of the importer.
        value_range: smallest and largest pixel value of the images that the network was trained on.
        read_pickles: as of ``Source``.
        on_notice: as of ``Source``.

    Raises:
        UserError: no importer recognizes it, or it cannot be imported; the message says why.
    """
    source = Source(path, read_pickles, on_notice)
    name = format or find(source)
    if name is None:
        titles = [registry.get("importer", n).title for n in registry.names("importer")]  # pyright: ignore[reportFunctionMemberAccess]
        raise UserError(f"'{path}' is not a model that can be imported: expected {', '.join(dict.fromkeys(titles))}")
    importer: Importer = build_with_options("importer", "import", name, options or {})
    imported = importer.read(source)
    try:
        return ImportedModel(_build(imported, value_range), name, imported.notes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _build(imported: Imported, value_range: tuple[float, float]) -> Model | AutoencoderModel:
    """The model of a recipe with the imported weights, for images in a range.

    Raises:
        UserError: the recipe is impossible, the weights do not fit its network, they are not finite, or an autoencoder
            has images in another range than [-1, 1].
    """
    values = {"name": "imported", "data": {"source": ""}, "train": {"steps": 1}} | imported.recipe
    try:
        checkpoint.check_numbers(values)
    except ValueError as error:
        raise UserError(f"its configuration is impossible: {error}") from None
    recipe = parse(values)
    prefix = "network." if recipe.reconstruction is None else ""
    tensors = {f"{prefix}{name}": tensor for name, tensor in imported.weights.items()}
    if tuple(value_range) != (-1, 1):
        recipe = _for_range(recipe, value_range)
    return checkpoint.rebuild(recipe, imported.info, tensors)


def _for_range(recipe: Recipe, value_range: tuple[float, float]) -> Recipe:
    """The recipe of a network whose images have another range of values: target ``value-range`` and its schedule.

    Raises:
        UserError: the range is empty, or the schedule or the target allow no other range, or it is an autoencoder.
    """
    if recipe.reconstruction is not None:
        raise UserError("--value-range: an autoencoder is imported for images in [-1, 1] alone; leave it out")
    kind = recipe.diffusion.target.kind
    schedule = registry.build("schedule", recipe.diffusion.schedule.kind, recipe.diffusion.schedule.options())
    if kind not in TARGETS or not isinstance(schedule, BetaSchedule):
        raise UserError(f"--value-range needs a beta schedule and target {', '.join(TARGETS)}, not {kind}")
    if recipe.diffusion.zero_terminal_snr:
        schedule = zero_terminal_snr(schedule)
    try:
        target = ValueRange(*value_range, kind)
        betas = schedule_for_range(schedule, target).betas.tolist()
    except ValueError as error:
        raise UserError(f"--value-range: {error}") from None
    own = {"kind": "value-range", "low": target.low, "high": target.high, "target": kind}
    return change(recipe, {"diffusion.target": own, "diffusion.schedule": {"kind": "betas", "betas": betas}})


def check_out(path: Path) -> None:
    """Check that a model can be saved at a path, as of ``ImportedModel.save``; nothing is created.

    Raises:
        UserError: there is something already, or the folder cannot be written.
    """
    if path.suffix == ".safetensors":
        check_file(path)
        if path.exists():
            raise UserError(f"{path} exists already: choose another --out")
    elif path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} is not empty: choose another --out")
    elif path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: choose a folder for --out")
    check_folder(path if path.suffix != ".safetensors" else path.parent)


def tutorial_recipe(network: Any, steps: int, beta_start: float, beta_end: float, variance: float) -> dict[str, Any]:
    """The recipe of a tutorial's DDPM: literal linear betas, noise as the target, ancestral sampling.

    Args:
        network: kind and options.
        steps: T.
        beta_start: beta_1.
        beta_end: beta_T.
        variance: f of the published ancestral steps, 0 for beta tilde and 1 for beta.
    """
    betas = {"beta_start": beta_start, "beta_end": beta_end, "rescale": False}
    return {
        "network": network,
        "diffusion": {"schedule": {"kind": "linear", "steps": steps, **betas}, "target": "eps"},
        "sample": {"sampler": "dpmpp-2m", "steps": min(20, steps)},
        "published": {"sampler": {"kind": "ancestral", "variance": variance}, "grid": "uniform", "clip": False},
    }
