"""All checks of a data set or of a run, given its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fromnoise.checkpoint import load_model
from fromnoise.config import SamplingConfig
from fromnoise.data import load, open_source
from fromnoise.evaluation.data_checks import CheckedData, check_data
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.findings import Finding
from fromnoise.evaluation.measurement import MIN_IMAGES, measure
from fromnoise.evaluation.model_source import ModelSource
from fromnoise.evaluation.resolve import real_images
from fromnoise.evaluation.run_checks import check_loss, check_reports
from fromnoise.evaluation.sample_checks import check_samples
from fromnoise.evaluation.sources import RealImages
from fromnoise.model import Model, with_sampler
from fromnoise.run_dir import RunDir
from fromnoise.utils.device import ComputeConfig

_MAX_STEPS = 50  # of the samples that are checked

DATA, RUN, SAMPLES = "data", "run", "samples"
Log = Callable[[str], None]


def examine_data(spec: str, size: int | None, log: Log) -> list[Finding]:
    """Problems of a data set.

    Args:
        spec: data SPEC, as for training.
        size: side in pixels; None for that of the data.
        log: called with lines for the user.

    Raises:
        UserError: it cannot be read.
    """
    data = load(spec, size=size, log=log)
    return list(check_data(CheckedData(open_source(spec), data)))


def examine_run(run: str | Path, compute: ComputeConfig, count: int, log: Log) -> tuple[list[Finding], tuple[str, ...]]:
    """Problems of a run, of its data, and of some samples.

    Args:
        run: run directory or model file.
        compute: device and precision of the sampling.
        count: number of samples, 0 for none.
        log: called with lines for the user.

    Returns:
        The problems, and the names of the groups of checks that were made.

    Raises:
        UserError: the model or its data cannot be read.
    """
    loaded = load_model(run)
    model, reports = loaded.model, RunDir(loaded.path.parent, log).read_reports()
    if not model.recipe.data.source:
        log(
            "the model does not record its training data, so neither data nor samples are checked: fromnoise evaluate "
            f"{run} --against SPEC compares its samples with images"
        )
        return list(check_reports(reports)), (RUN,)
    data, config = real_images({str(run): loaded}, None, None, log), model.recipe.data
    checked = CheckedData(open_source(config.source, skip_damaged=config.skip_damaged), data)
    findings = [*check_data(checked), *check_reports(reports), *check_loss(reports, model, data)]
    checks = (DATA, RUN)
    if count and len(data.held_out) < MIN_IMAGES:
        log(f"no samples are checked: there are only {len(data.held_out)} held-out images to compare with")
    elif count:
        compute.to_device(model.denoiser)
        source = ModelSource("samples", model, sampling_config(model), compute, count)
        log(f"sampling {count:,} images takes about {source.estimated_seconds():.0f} s")
        training = RealImages("training images", data.train)
        measurement = measure([source], training, data.held_out, PixelFeatures(data.shape))
        findings += check_samples(measurement.evaluations[0], measurement.real_vs_real[0])
        checks = (DATA, RUN, SAMPLES)
    return findings, checks


def sampling_config(model: Model) -> SamplingConfig:
    """The sampling config of the recipe, or DDIM with 50 steps if that takes more than 50 steps."""
    own = model.recipe.sample
    if (own.steps or model.schedule.steps or _MAX_STEPS + 1) <= _MAX_STEPS:
        return own
    steps = min(_MAX_STEPS, model.schedule.steps or _MAX_STEPS)
    return with_sampler(own, "ddim").model_copy(update={"steps": steps})
