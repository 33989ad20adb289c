"""From names on the command line to sources of images: runs, sampling sweeps, image files, and the real images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fromnoise import registry
from fromnoise.checkpoint import Loaded, LoadedModel, load_trainable
from fromnoise.config import Recipe, SamplingConfig, change
from fromnoise.config.recipe_data import open_data
from fromnoise.data import Data, load
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.data.source import did_you_mean
from fromnoise.data.spec import parse_spec
from fromnoise.evaluation.model_source import ModelSource, ProcessGroup, has_pseudo_labels
from fromnoise.evaluation.reconstruction import ReconstructionSource, measure_reconstruction
from fromnoise.evaluation.sources import ImageSource, RealImages, first_with_data, open_samples
from fromnoise.model import AutoencoderModel, Model
from fromnoise.pipeline.sample_parts import SampleParts
from fromnoise.run_dir import RunDir
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError
from fromnoise.utils.hub import has_repository, is_hub, open_repository

AnyModel = Loaded[Model | AutoencoderModel] | LoadedModel
"""A diffusion model or an autoencoder that was read from a file."""


@dataclass(frozen=True)
class SampleRequest:
    """What is sampled from each model.

    Attributes:
        count: number of samples.
        seed: of all noise.
        label: class of the samples, as ``ModelSource`` takes it.
        batch: samples per batch.
        compute: device and precision.
        processes: that share the sampling.
        parts: finished batches of a source, by its name and the module of its model; None to keep none.
    """

    count: int
    seed: int
    label: str | None
    batch: int
    compute: ComputeConfig
    processes: ProcessGroup = ProcessGroup()
    parts: Callable[[str, torch.nn.Module], SampleParts | None] = lambda name, module: None


def is_run(name: str) -> bool:
    """Whether a name is a run directory, a model file or a model of the hub, as opposed to images."""
    path = Path(name)
    if is_hub(name):
        return has_repository(name) and open_repository(name).is_run
    return path.suffix == ".safetensors" or (path / "recipe.toml").exists() or (path / "model.safetensors").exists()


def check_exists(name: str) -> None:
    """Check that a name is a run, a file or folder, or a data SPEC.

    Raises:
        UserError: it is none of them.
    """
    named = registry.names("dataset")
    if Path(name).expanduser().exists() or name.startswith("hub:") or parse_spec(name)[0] in named:
        return
    if Path(parse_spec(name)[0]).expanduser().exists():
        return
    hint = did_you_mean(name, named)
    if (Path("runs") / name).exists():
        hint = f"; did you mean {Path('runs') / name}?"
    raise UserError(f"there is no run directory, image file or data set '{name}'{hint}")


def no_foreign_model(name: str) -> AnyModel | None:
    """No model of another program."""
    return None


def open_runs(
    names: Sequence[str],
    sweep: Mapping[str, Sequence[str]],
    label: str | None = None,
    open_foreign: Callable[[str], AnyModel | None] = no_foreign_model,
) -> dict[str, AnyModel]:
    """The models among some sources, by name.

    Args:
        names: of the sources.
        sweep: as of ``image_sources``.
        label: class of the samples.
        open_foreign: the model of another program, if a name is one.

    Raises:
        UserError: a source does not exist, a model cannot be read, or a value of the sweep or the label is impossible.
    """
    for name in names:
        check_exists(name)
    runs: dict[str, AnyModel] = {}
    for name in names:
        if is_hub(name) and not has_repository(name):
            continue  # a data set
        loaded = open_foreign(name) or (load_trainable(name) if is_run(name) else None)
        if loaded is not None:
            runs[name] = loaded
    for loaded in runs.values():
        conditioning_for(loaded.model.dataset_info, label, torch.zeros(1, dtype=torch.int64))
        for values in itertools.product(*sweep.values()):
            _changed(loaded.model.recipe, dict(zip(sweep, values, strict=True)))
    return runs


def load_model_data(model: Model | AutoencoderModel, spec: str | None, log: Callable[[str], None]) -> Data:
    """Load images in the shape that a model samples.

    Args:
        model: the model.
        spec: the data; None for those that the model was trained on, held out as in its training.
        log: as of ``fromnoise.data.load``.

    Raises:
        UserError: as ``fromnoise.data.load``.
    """
    channels, height, width = model.dataset_info.shape
    own = model.recipe.data
    config = own.model_copy(update={"source": spec or own.source, "size": (height, width), "channels": channels})
    return open_data(model.recipe.model_copy(update={"data": config}), log)


def real_images(
    opened: Mapping[str, AnyModel], against: str | None, size: int | None, log: Callable[[str], None]
) -> Data:
    """The reference images: in the size of the runs, with the split of the first that records its training data.

    Args:
        opened: the runs among the sources.
        against: a data SPEC; None for the training data of the runs.
        size: side in pixels, if there is no run.
        log: called with lines for the user.

    Raises:
        UserError: there is neither a run nor a SPEC, or the runs were trained on different images.
    """
    runs = [loaded.model for loaded in opened.values()]
    if not runs:
        if against is None:
            raise UserError(
                "no source is a run that names the real images: add --against SPEC, for example --against mnist"
            )
        return load(against, size=size, log=log)
    shapes = {run.dataset_info.shape for run in runs}
    if len(shapes) > 1:
        raise UserError("these runs have images of different shapes: evaluate them one by one")
    if against is None and len({run.dataset_info.fingerprint for run in runs if run.recipe.data.source}) > 1:
        raise UserError("these runs were trained on different images: add --against SPEC")
    recipe = first_with_data(runs).recipe
    if against is None and not recipe.data.source:
        raise UserError(f"{next(iter(opened))} does not record its training data: add --against SPEC")
    channels, height, width = runs[0].dataset_info.shape
    changes = {"source": against or recipe.data.source, "size": (height, width), "channels": channels, "labels": False}
    return open_data(recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)}), log)


def image_sources(
    names: Sequence[str],
    runs: Mapping[str, AnyModel],
    sweep: Mapping[str, Sequence[str]],
    data: Data,
    request: SampleRequest,
    resize: bool,
    log: Callable[[str], None] = lambda line: None,
) -> list[ImageSource]:
    """Sources in the order of their names; each run once for each combination of the sweep.

    Args:
        names: run directories, model files, or images.
        runs: the models among them, as of ``open_runs``.
        sweep: values by key of the recipe's section ``sample``, such as steps or sampler.eta.
        data: the real images.
        request: what is sampled from each model.
        resize: whether images of another size may be resized.
        log: called with lines for the user.

    Raises:
        UserError: a source cannot be opened.
    """
    out: list[ImageSource] = []
    for name in names:
        if name in runs:
            out += _model_sources(name, runs[name], sweep, data, request, log)
        else:
            out.append(RealImages(name, open_samples(name, data.shape, resize), request.count))
    return out


def _model_sources(
    name: str,
    loaded: AnyModel,
    sweep: Mapping[str, Sequence[str]],
    data: Data,
    request: SampleRequest,
    log: Callable[[str], None],
) -> list[ImageSource]:
    request.compute.to_device(loaded.model.module)
    if isinstance(loaded.model, AutoencoderModel):
        log(f"{name}: {measure_reconstruction(loaded.model, request.compute, data.held_out).describe()}")
        if not loaded.model.objective.generative:
            title = f"{name}, reconstructions"
            return [ReconstructionSource(title, loaded.model, request.compute, data.held_out, request.count)]
    reports = RunDir(loaded.path.parent, log).read_reports()
    training = (float(reports[-1]["timing"]["seconds"]), int(reports[-1]["images"])) if reports else None
    out: list[ImageSource] = []
    for values in itertools.product(*sweep.values()):
        changes = dict(zip(sweep, values, strict=True))
        full_name = " ".join([name, *(f"{key}={value}" for key, value in changes.items())])
        for suffix, stratified in _label_sampling(loaded.model, request):
            out.append(
                ModelSource(
                    full_name + suffix,
                    loaded.model,
                    _changed(loaded.model.recipe, changes),
                    request.compute,
                    request.count,
                    seed=request.seed,
                    label=request.label,
                    batch=request.batch,
                    training=training,
                    processes=request.processes,
                    stratified=stratified,
                    parts=request.parts(full_name + suffix, loaded.model.module),
                )
            )
    return out


def _label_sampling(model: Model | AutoencoderModel, request: SampleRequest) -> tuple[tuple[str, bool], ...]:
    """Suffixes of names, and whether pseudo-labels are stratified: a model that has them is evaluated in both ways."""
    if request.label is not None or not has_pseudo_labels(model):
        return (("", False),)
    return (", i.i.d. pseudo-labels", False), (", stratified pseudo-labels", True)


def _changed(recipe: Recipe, changes: Mapping[str, str]) -> SamplingConfig:
    """The sampling config of a recipe with other values by key of its section ``sample``."""
    try:
        return change(recipe, {f"sample.{key.removeprefix('sample.')}": value for key, value in changes.items()}).sample
    except UserError as e:
        options = " ".join(f"{key}={value}" for key, value in changes.items())
        raise UserError(f"--sweep {options}: {e}") from None


def parse_sweep(options: Sequence[str]) -> dict[str, list[str]]:
    """``["steps=5,10", "sampler=ddim,heun"]`` as values by key.

    Raises:
        UserError: an option is not KEY=VALUES, or a key is repeated.
    """
    out: dict[str, list[str]] = {}
    for option in options:
        key, equals, values = option.partition("=")
        if not key or not equals or not all(values.split(",")):
            raise UserError(f"--sweep {option}: write KEY=VALUE,VALUE as in steps=5,10,20")
        if key in out:
            raise UserError(f"--sweep {key} is given twice: list all values after one key")
        out[key] = values.split(",")
    return out
