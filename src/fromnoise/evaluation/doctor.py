"""A run or a set of images from its name to what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fromnoise.checkpoint import load_model
from fromnoise.config import SamplingConfig
from fromnoise.data import load, open_source
from fromnoise.evaluation import data_checks, run_checks
from fromnoise.evaluation.features import extractors
from fromnoise.evaluation.findings import Finding, of_samples
from fromnoise.evaluation.measurement import LEAST, measure
from fromnoise.evaluation.resolve import real_images
from fromnoise.evaluation.sources import ModelSource, RealImages
from fromnoise.model import Model
from fromnoise.run_dir import RunDir
from fromnoise.utils.device import ComputeConfig

_STEPS = 50  # at most, by which samples are drawn for the examination

Log = Callable[[str], None]


def of_spec(spec: str, size: int | None, log: Log) -> list[Finding]:
    """Faults of data.

    Args:
        spec: as for training.
        size: side in pixels; None as the data say.
        say: takes lines for people.

    Raises:
        UserError: they cannot be read.
    """
    data = load(spec, size=size, log=log)
    return list(data_checks.of_data(data_checks.Examined(open_source(spec), data)))


def of_run(run: str | Path, compute: ComputeConfig, count: int, log: Log) -> list[Finding]:
    """Faults of a run, of its data, and of a few samples drawn for it.

    Args:
        run: folder or model file.
        compute: where it draws.
        count: of samples, 0 for none.
        say: takes lines for people.

    Raises:
        UserError: model or data cannot be read.
    """
    loaded = load_model(run)
    model, reports = loaded.model, RunDir(loaded.path.parent).read_reports()
    data = real_images([str(run)], None, None, log)
    examined = data_checks.Examined(open_source(model.recipe.data.source), data)
    found = [*data_checks.of_data(examined), *run_checks.of_reports(reports), *run_checks.of_loss(reports, model, data)]
    if count and len(data.held_out) < LEAST:
        log(f"no samples are drawn: {len(data.held_out)} held-out images are too few to compare with")
    elif count:
        compute.to_device(model.denoiser)
        subject = ModelSource("samples", model, drawing(model), compute, count)
        log(f"drawing {count:,} samples takes about {subject.seconds():.0f} s")
        measured = measure([subject], RealImages("training", data.train), data.held_out, extractors.pixels(data))
        found += of_samples(measured.judged[0], measured.floors[0])
    return found


def drawing(model: Model) -> SamplingConfig:
    """How samples are drawn for an examination: as the run draws its own, but where that takes over 50 steps.

    There a deterministic rule of 50 steps stands in for it.
    """
    own = model.recipe.sample
    if (own.steps or model.schedule.steps or _STEPS + 1) <= _STEPS:
        return own
    steps = min(_STEPS, model.schedule.steps or _STEPS)
    return SamplingConfig(sampler="ddim", steps=steps, clip=own.clip, guidance=own.guidance)
