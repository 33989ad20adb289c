"""A clustering run in a run directory: initialization or resumption, the EM loop, checkpoints and log."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fromnoise import checkpoint
from fromnoise.clustering.assessments import FEWEST_LABELS, Calibration, assessed_images, calibrate
from fromnoise.clustering.budget import e_steps, wanted_measurements
from fromnoise.clustering.calibration import tempered
from fromnoise.clustering.em import EM, EMState
from fromnoise.clustering.features import CHOICE, FeatureSource, feature_source
from fromnoise.clustering.given_labels import GivenLabels, read_given_labels, with_known
from fromnoise.clustering.graph import prepare_features
from fromnoise.clustering.init import InitialClusters, initial_clusters, within_budget
from fromnoise.clustering.resampling import half_partitions
from fromnoise.clustering.round_report import describe_round
from fromnoise.clustering.rounds import Round
from fromnoise.clustering.semi_supervised import spread_given_labels
from fromnoise.clustering.task import ClusteringTask, build_model, limit_patch, prepare
from fromnoise.config import Recipe
from fromnoise.model import Model
from fromnoise.run_dir import RunDir
from fromnoise.run_dir.reports import ROUNDS
from fromnoise.training.distributed import make_accelerator
from fromnoise.training.forecast import prepare_budget
from fromnoise.training.launch import Launch
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.measurement_plan import CHECKPOINT_PART
from fromnoise.training.measurements import Measurements
from fromnoise.training.previews import SamplePreviews
from fromnoise.training.resume import arithmetic, check_state, log_arithmetic, misfit
from fromnoise.training.run import stop_on_signal
from fromnoise.training.threads import restored_threads
from fromnoise.training.training_bar import progress_line
from fromnoise.utils.device import ComputeConfig, select_device
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic

Log = Callable[[str], None]
_HALVES, _SPLITS = "resampled.halves", 2  # name in the state, and number of splits into two halves


@dataclass(frozen=True)
class ClusteringResult:
    """The result of a run.

    Attributes:
        task: the images.
        model: with the averaged weights.
        q: responsibilities of the last E-step, float64 (N, Q).
        calibration: temperatures of the probabilities; None if the run was stopped.
        probabilities: calibrated responsibilities, (N, Q); q if the run was stopped.
        given: known clusters, int64 (N,), -1 where unknown; None without a table of them.
        remaining_probabilities: calibrated responsibilities of ``task.remaining``, (M, Q); None if there is none, or
            the run was stopped.
        initial: most likely clusters before the first E-step, int64 (N,).
        rounds: ``Round.json`` of each E-step.
        compute: device and precision.
        signal: number of the signal that stopped the run early, or 0.
    """

    task: ClusteringTask
    model: Model
    q: Tensor
    calibration: Calibration | None
    probabilities: Tensor
    given: Tensor | None
    remaining_probabilities: Tensor | None
    initial: Tensor
    rounds: list[dict[str, Any]]
    compute: ComputeConfig
    signal: int

    @property
    def without_label(self) -> Tensor:
        """The images whose label was not given, bool (N,)."""
        return torch.ones(len(self.q), dtype=torch.bool) if self.given is None else self.given < 0


def fit_mixture(
    recipe: Recipe,
    out: Path,
    *,
    given: Path | None = None,
    init: InitialClusters | Tensor | None = None,
    device: str | None = None,
    precision: str = "auto",
) -> ClusteringResult:
    """Cluster images and train a generator of each cluster; an unfinished run in ``out`` is resumed.

    Args:
        recipe: data, network, training and clustering.
        out: the run directory.
        given: a table of known clusters; see ``read_given_labels``.
        init: initial clusters instead of ``clustering.init``; of responsibilities alone, float64 (N, Q), the features
            are unknown, over which given labels spread and which calibrate probabilities.
        device: as in ``select_device``.
        precision: as in ``select_device``.

    Raises:
        UserError: the data, a table, the run directory or the device cannot be used, or there are several processes.
    """
    if Launch.from_environment() is not None:
        raise UserError("clustering runs in one process: start it without torchrun (WORLD_SIZE is set)")

    def notice(line: str) -> None:
        tqdm.write(line, file=sys.stderr)

    with contextlib.closing(RunDir(out, notice)) as folder, restored_threads():
        return _fit(recipe, folder, given, init, device, precision)


def _fit(
    recipe: Recipe,
    folder: RunDir,
    given: Path | None,
    init: InitialClusters | Tensor | None,
    device: str | None,
    precision: str,
) -> ClusteringResult:
    def log(line: str) -> None:
        tqdm.write(line, file=sys.stderr)
        folder.log(line)

    compute = select_device(device, precision)
    task = prepare(recipe, log)
    recipe = limit_patch(recipe, task)
    folder.check(recipe)
    labels = read_given_labels(given, task.images_in_set, recipe.clustering.count) if given else None
    features = feature_source(recipe, task, compute) if not folder.has_states else None
    model = build_model(recipe, task, labels.names if labels else None)
    accelerator = make_accelerator(compute.device.type == "cpu")
    loop = TrainingLoop(model, task.data, compute, accelerator, folder.load_state, log)
    loop.measurements = Measurements(recipe, wanted_measurements(recipe))
    folder.open(recipe)
    if not (folder.path / ROUNDS).exists():
        write_atomic(folder.path / ROUNDS, b"[]\n")  # tells a clustering from a training
    log(
        f"{len(task.index):,} images, {recipe.clustering.count} clusters; {model.parameters:,} parameters; "
        f"{compute.describe()}"
    )
    known = labels.at(task.index) if labels else None
    em, rounds, halves = _start(loop, folder, compute, known, init, features, log)
    remaining = len(task.remaining.index) if task.remaining is not None else 0
    remaining += assessed_images(len(task.index), int((known >= 0).sum()) if known is not None else 0)
    prepare_budget(
        loop, log, lambda cost: e_steps(recipe, len(task.index), remaining, cost.forward_seconds, em.state.rounds)
    )
    with stop_on_signal(em.stop) as caught:
        _loop(em, rounds, halves, folder, log, 1 + remaining / len(task.index))
    if not em.finished:
        log(f"stopped at step {loop.progress.step:,}; run the same command again to continue")
    number = 0 if em.finished else (caught or [signal.SIGTERM])[0]
    averaged, q, calibration, others = loop.ema_model(), em.state.q, None, None
    if em.finished:
        calibration = calibrate(em, halves)
        log(f"temperature {calibration.temperature:.3g} of the probabilities, from {calibration.source}")
        _save_model(em, folder, calibration)
        q = with_known(tempered(q, calibration.temperature), known)
        others = _assign_remaining(em, task, labels, calibration)
    return ClusteringResult(
        task, averaged, em.state.q, calibration, q, known, others, em.state.initial, rounds, compute, number
    )


def _save_model(em: EM, folder: RunDir, calibration: Calibration | None = None) -> None:
    mixture: dict[str, Any] = {"weights": em.state.weights.tolist(), "proposal": em.state.proposal.tolist()}
    if calibration is not None:
        mixture["temperature"] = calibration.model_temperature
    progress = {"step": em.loop.progress.step, "mixture": mixture}
    checkpoint.save_model(folder.model_file, em.loop.model, em.loop.ema_state_dict(), progress)


def _assign_remaining(
    em: EM, task: ClusteringTask, labels: GivenLabels | None, calibration: Calibration
) -> Tensor | None:
    if task.remaining is None:
        return None
    q = tempered(em.assign(task.remaining.images), calibration.model_temperature)
    return with_known(q, labels.at(task.remaining.index) if labels else None)


def _start(
    loop: TrainingLoop[Model],
    folder: RunDir,
    compute: ComputeConfig,
    given: Tensor | None,
    init: InitialClusters | Tensor | None,
    features: FeatureSource | None,
    log: Log,
) -> tuple[EM, list[dict[str, Any]], Tensor | None]:
    """EM from a saved state or from initial clusters.

    Returns:
        EM, the results of its rounds so far, and clusters found in halves of the features, int64 (H, N), which
        calibrate probabilities without labels.
    """
    recipe, images = loop.model.recipe, loop.data.train
    state = folder.load_state()
    if state is not None:
        tensors, header = state
        _, saved = checkpoint.parse_header(header, folder.states)
        info = loop.model.dataset_info
        try:
            if (saved.shape, saved.fingerprint, len(tensors["em.q"])) != (info.shape, info.fingerprint, len(images)):
                raise UserError(f"{folder.path} is a run on other images: choose another --out")
            check_state(header, folder, recipe, info, log)
            loop.resume(tensors, header)
            em = EM(loop, tensors["em.q"], given)
            em.resume(tensors, header["em"]["done"])
            rounds = list(header["em"]["rounds"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise misfit(folder, error) from None
        folder.truncate_reports(loop.progress.step)
        log(f"resuming from step {loop.progress.step:,}")
        log_arithmetic(header, loop, log)
        return em, rounds, tensors.get(_HALVES)
    start = time.monotonic()
    if init is None:
        config, seed = within_budget(recipe.clustering, recipe.train.minutes, images, compute), recipe.train.seed
        with _progress_bar(f"initial clusters: {config.init}") as bar:
            own = features(lambda part: _advance(bar, part)) if features else None
            matrix = own.matrix if own else None
            found = initial_clusters(images, config, compute, seed, lambda part: _advance(bar, part), matrix)
        if own and own.choice:
            log(own.choice.describe())
            write_atomic(folder.path / CHOICE, (json.dumps(own.choice.json(), indent=1) + "\n").encode())
    else:
        found = init if isinstance(init, InitialClusters) else InitialClusters(init)
    q = found.q if given is None else spread_given_labels(found, given, recipe.train.seed)
    halves = _halves(found, recipe) if given is None or int((given >= 0).sum()) < FEWEST_LABELS else None
    loop.progress.seconds = time.monotonic() - start  # a budget in minutes includes the initialization
    em = EM(loop, q, given)
    if given is not None:  # the initial clusters' likelihood of an image is the one without its own label
        em.state.encoder_nats[given >= 0] = EMState.from_responsibilities(q, recipe.clustering).encoder_nats[given >= 0]
    return em, [], halves


def _halves(found: InitialClusters, recipe: Recipe) -> Tensor | None:
    count = recipe.clustering.count
    if found.features is None or len(found.q) < 2 * count:
        return None
    return half_partitions(prepare_features(found.features), [count], recipe.train.seed, _SPLITS).flatten(0, 2)


def _loop(em: EM, rounds: list[dict[str, Any]], halves: Tensor | None, folder: RunDir, log: Log, last: float) -> None:
    """Run EM in a run directory.

    Args:
        em: new or resumed.
        rounds: results of its E-steps so far; the new ones are added.
        halves: as of ``_start``, saved with the state.
        folder: opened.
        log: receives messages.
        last: duration of what follows the last training step, in E-steps.
    """
    loop = em.loop
    recipe, overhead = loop.config, loop.measurements.overhead
    waiting, saved = [], time.monotonic()

    def save() -> None:
        nonlocal saved
        with overhead.spend("checkpoint"):
            write()
        saved = time.monotonic()

    def save_due() -> bool:
        # checkpoints that take long are rarer, as in ``training.run``
        rarest = overhead.last("checkpoint") / max(1e-9, CHECKPOINT_PART * recipe.evaluation_share)
        return time.monotonic() - saved > max(recipe.checkpoint_seconds, rarest)

    def write() -> None:
        folder.write_reports(waiting)
        waiting.clear()
        tensors, header = loop.state()
        header |= {"em": {"done": em.state.rounds, "rounds": rounds}}
        header |= checkpoint.model_header(loop.model.recipe, loop.model.dataset_info)
        header |= {"arithmetic": arithmetic(loop.compute, loop.accelerator)}
        resampled = {_HALVES: halves} if halves is not None else {}
        folder.save_state(loop.progress.step, tensors | em.tensors() | resampled, header)
        _save_model(em, folder)
        write_atomic(folder.path / ROUNDS, (json.dumps(rounds, indent=1) + "\n").encode())

    if loop.progress.step == 0 and not em.state.rounds:
        SamplePreviews(folder, loop.compute).save_data(loop.model, loop.data)
        save()
    with _progress_bar("") as bar:

        def on_progress(fraction: float) -> None:
            bar.set_description_str(f"E-step {fraction:.0%}")
            if save_due():
                save()

        for report in em.run(on_progress):
            if isinstance(report, Round):
                rounds.append(report.json())
                log(describe_round(report))
                _reserve(em, last)
                save()
                continue
            bar.set_description_str(progress_line(report), refresh=False)
            _advance(bar, report.budget_used)
            if report.logged:
                waiting.append(report.to_json())
            due = save_due()
            due |= recipe.checkpoint_steps is not None and report.step % recipe.checkpoint_steps == 0
            if (due and not loop.progress.dropped_in_a_row) or loop.stopping or report.budget_used >= 1:
                save()
    if not em.finished:
        save()


def _reserve(em: EM, last: float) -> None:
    """Replace the forecast of what follows the last step by the duration of an E-step, times ``last``."""
    minutes = em.loop.config.minutes
    if minutes is not None and em.e_step_seconds is not None and em.state.rounds < em.config.rounds:
        em.loop.measurements.reserve = min(em.e_step_seconds * last, 30 * minutes)
        em.loop.budget = em.loop.measurements.budget(len(em.images))


def _progress_bar(description: str) -> tqdm[Any]:
    interval = 0.2 if sys.stderr.isatty() else 20.0
    form = "{percentage:3.0f}% {bar:24} {desc}"
    return tqdm(total=100.0, desc=description, bar_format=form, mininterval=interval, file=sys.stderr)


def _advance(bar: tqdm[Any], fraction: float) -> None:
    bar.update(min(100.0, 100 * fraction) - bar.n)
