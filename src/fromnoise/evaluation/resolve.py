"""From what a user names to what is judged: runs, ways of sampling, pictures, and the real images beside them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fromnoise.checkpoint import Loaded, load_model
from fromnoise.config import SampleRecipe
from fromnoise.data import Data, load
from fromnoise.evaluation.sources import Processes, Real, Sampler, Subject, pictures_of
from fromnoise.training.run import open_data
from fromnoise.training.run_dir import RunFolder
from fromnoise.utils.device import Compute
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
    compute: Compute
    processes: Processes = Processes()


def is_run(name: str) -> bool:
    """Whether this is a run folder or a model file, not pictures."""
    path = Path(name)
    return path.suffix == ".safetensors" or (path / "recipe.toml").exists() or (path / "model.safetensors").exists()


def real_images(names: Sequence[str], against: str | None, size: int | None, say: Callable[[str], None]) -> Data:
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
        return load(against, size=size, log=say)
    shapes = {run.facts.shape for run in runs}
    if len(shapes) > 1:
        raise UserError("these runs draw images of different shapes: evaluate them one by one")
    if against is None and len({run.facts.fingerprint for run in runs}) > 1:
        raise UserError("these runs learned from different images: name those to compare with by --against SPEC")
    recipe = runs[0].recipe
    channels, height, width = runs[0].facts.shape
    told = {"source": against or recipe.data.source, "size": (height, width), "channels": channels, "labels": False}
    return open_data(recipe.model_copy(update={"data": recipe.data.model_copy(update=told)}), say)


def subjects(
    names: Sequence[str], sweep: Mapping[str, Sequence[str]], data: Data, how: Drawing, resize: bool
) -> list[Subject]:
    """What is judged, in the order named; each run once for each combination of the sweep.

    Args:
        names: run folders, model files, or pictures.
        sweep: values by key of ``SampleRecipe``.
        data: the real images.
        how: models draw.
        resize: whether pictures of another size may be resized.

    Raises:
        UserError: one cannot be had.
    """
    out: list[Subject] = []
    for name in names:
        if is_run(name):
            out += _samplers(name, load_model(name), sweep, how)
        else:
            out.append(Real(name, pictures_of(name, data.shape, resize), how.count))
    return out


def _samplers(name: str, loaded: Loaded, sweep: Mapping[str, Sequence[str]], how: Drawing) -> list[Subject]:
    how.compute.place(loaded.model.denoiser)
    reports = RunFolder(loaded.path.parent).read_reports()
    training = (float(reports[-1]["clock"]["seconds"]), int(reports[-1]["images"])) if reports else None
    out: list[Subject] = []
    for values in itertools.product(*sweep.values()):
        told = dict(zip(sweep, values, strict=True))
        out.append(
            Sampler(
                " ".join([name, *(f"{key}={value}" for key, value in told.items())]),
                loaded.model,
                _changed(loaded.model.recipe.sample, told),
                how.compute,
                how.count,
                seed=how.seed,
                label=how.label,
                batch=how.batch,
                training=training,
                processes=how.processes,
            )
        )
    return out


def _changed(own: SampleRecipe, told: Mapping[str, str]) -> SampleRecipe:
    try:
        return SampleRecipe.model_validate(own.model_dump() | dict(told))
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(SampleRecipe.model_fields)
            raise UserError(f"--sweep {key}: there is no such key; there are {known}") from None
        raise UserError(f"--sweep {key}={first['input']}: {first['msg']}") from None


def parse_sweep(words: Sequence[str]) -> dict[str, list[str]]:
    """``["steps=5,10", "rule=ddim"]`` as values by key.

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
