"""From what a user names to what is judged: runs, ways of sampling, pictures, and the real images beside them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fromnoise.checkpoint import LoadedModel, load_model
from fromnoise.config import SamplingConfig
from fromnoise.config.recipe_data import open_data
from fromnoise.data import Data, load
from fromnoise.evaluation.sources import ImageSource, ModelSource, Processes, RealImages, pictures_of
from fromnoise.run_dir import RunDir
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class Drawing:
    """How models draw.

    Attributes:
        count: pictures of each.
        seed: of all noise.
        label: as ``draw`` takes it.
        batch: pictures at a time.
        compute: where and how precisely.
        processes: that share the work.
    """

    count: int
    seed: int
    label: str | None
    batch: int
    compute: ComputeConfig
    processes: Processes = Processes()


def is_run(name: str) -> bool:
    """Whether this is a run folder or a model file, not pictures."""
    path = Path(name)
    return path.suffix == ".safetensors" or (path / "recipe.toml").exists() or (path / "model.safetensors").exists()


def real_images(names: Sequence[str], against: str | None, size: int | None, log: Callable[[str], None]) -> Data:
    """The images that subjects are compared with: at the size of the first run, and split as it split them.

    Args:
        names: of the subjects.
        against: a SPEC; None takes what the runs learned from.
        size: side, where no run says one.
        say: takes lines for people.

    Raises:
        UserError: none is named, or the runs learned from different images.
    """
    runs = [load_model(name).model for name in names if is_run(name)]
    if not runs:
        if against is None:
            raise UserError("name the real images to compare with: --against SPEC, as in --against mnist")
        return load(against, size=size, log=log)
    shapes = {run.dataset_info.shape for run in runs}
    if len(shapes) > 1:
        raise UserError("these runs draw images of different shapes: evaluate them one by one")
    if against is None and len({run.dataset_info.fingerprint for run in runs}) > 1:
        raise UserError("these runs learned from different images: name those to compare with by --against SPEC")
    recipe = runs[0].recipe
    channels, height, width = runs[0].dataset_info.shape
    told = {"source": against or recipe.data.source, "size": (height, width), "channels": channels, "labels": False}
    return open_data(recipe.model_copy(update={"data": recipe.data.model_copy(update=told)}), log)


def subjects(
    names: Sequence[str], sweep: Mapping[str, Sequence[str]], data: Data, config: Drawing, resize: bool
) -> list[ImageSource]:
    """What is judged, in the order named; each run once for each combination of the sweep.

    Args:
        names: run folders, model files, or pictures.
        sweep: values by key of ``SamplingConfig``.
        data: the real images.
        how: models draw.
        resize: whether pictures of another size may be resized.

    Raises:
        UserError: one cannot be had.
    """
    out: list[ImageSource] = []
    for name in names:
        if is_run(name):
            out += _samplers(name, load_model(name), sweep, config)
        else:
            out.append(RealImages(name, pictures_of(name, data.shape, resize), config.count))
    return out


def _samplers(name: str, loaded: LoadedModel, sweep: Mapping[str, Sequence[str]], config: Drawing) -> list[ImageSource]:
    config.compute.to_device(loaded.model.denoiser)
    reports = RunDir(loaded.path.parent).read_reports()
    training = (float(reports[-1]["clock"]["seconds"]), int(reports[-1]["images"])) if reports else None
    out: list[ImageSource] = []
    for values in itertools.product(*sweep.values()):
        told = dict(zip(sweep, values, strict=True))
        out.append(
            ModelSource(
                " ".join([name, *(f"{key}={value}" for key, value in told.items())]),
                loaded.model,
                _changed(loaded.model.recipe.sample, told),
                config.compute,
                config.count,
                seed=config.seed,
                label=config.label,
                batch=config.batch,
                training=training,
                processes=config.processes,
            )
        )
    return out


def _changed(own: SamplingConfig, told: Mapping[str, str]) -> SamplingConfig:
    try:
        return SamplingConfig.model_validate(own.model_dump() | dict(told))
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(SamplingConfig.model_fields)
            raise UserError(f"--sweep {key}: there is no such key; there are {known}") from None
        raise UserError(f"--sweep {key}={first['input']}: {first['msg']}") from None


def parse_sweep(words: Sequence[str]) -> dict[str, list[str]]:
    """``["steps=5,10", "sampler=ddim"]`` as values by key.

    Raises:
        UserError: one is not KEY=VALUES, or comes twice.
    """
    out: dict[str, list[str]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not key or not equals or not all(values.split(",")):
            raise UserError(f"--sweep {word}: write KEY=VALUE,VALUE as in steps=5,10,20")
        if key in out:
            raise UserError(f"--sweep {key} comes twice: put all its values behind one")
        out[key] = values.split(",")
    return out
