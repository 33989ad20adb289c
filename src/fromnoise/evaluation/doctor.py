"""A run or a set of images from its name to what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fromnoise.checkpoint import load_model
from fromnoise.config import SampleRecipe
from fromnoise.data import load, open_source
from fromnoise.evaluation import data_checks, run_checks
from fromnoise.evaluation.features import extractors
from fromnoise.evaluation.findings import Finding, of_samples
from fromnoise.evaluation.measurement import LEAST, measure
from fromnoise.evaluation.resolve import real_images
from fromnoise.evaluation.sources import Real, Sampler
from fromnoise.model import Model
from fromnoise.training.run_dir import RunFolder
from fromnoise.utils.device import Compute

_STEPS = 50  # at most, by which samples are drawn for the examination

Say = Callable[[str], None]


def of_spec(spec: str, size: int | None, say: Say) -> list[Finding]:
    """Faults of data.

    Args:
        spec: as for training.
        size: side in pixels; None as the data say.
        say: takes lines for people.

    Raises:
        UserError: they cannot be read.
    """
    data = load(spec, size=size, log=say)
    return list(data_checks.of_data(data_checks.Examined(open_source(spec), data)))


def of_run(run: str | Path, compute: Compute, count: int, say: Say) -> list[Finding]:
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
    model, reports = loaded.model, RunFolder(loaded.path.parent).read_reports()
    data = real_images([str(run)], None, None, say)
    examined = data_checks.Examined(open_source(model.recipe.data.source), data)
    found = [*data_checks.of_data(examined), *run_checks.of_reports(reports), *run_checks.of_loss(reports, model, data)]
    if count and len(data.held_out) < LEAST:
        say(f"no samples are drawn: {len(data.held_out)} held-out images are too few to compare with")
    elif count:
        compute.place(model.denoiser)
        subject = Sampler("samples", model, drawing(model), compute, count)
        say(f"drawing {count:,} samples takes about {subject.seconds():.0f} s")
        measured = measure([subject], Real("training", data.train), data.held_out, extractors.pixels(data))
        found += of_samples(measured.judged[0], measured.floors[0])
    return found


def drawing(model: Model) -> SampleRecipe:
    """How samples are drawn for an examination: as the run draws its own, but where that takes over 50 steps.

    There a deterministic rule of 50 steps stands in for it.
    """
    own = model.recipe.sample
    if (own.steps or model.schedule.steps or _STEPS + 1) <= _STEPS:
        return own
    steps = min(_STEPS, model.schedule.steps or _STEPS)
    return SampleRecipe(rule="ddim", steps=steps, clip=own.clip, guidance=own.guidance)
