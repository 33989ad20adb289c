"""A training run from a recipe to samples: open the data, resume, train, save, preview, sample."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from fromnoise import checkpoint
from fromnoise.config import Recipe, parse
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.model import build_trainable
from fromnoise.run_dir import RunDir
from fromnoise.training import latents, recipe_choice
from fromnoise.training.autosize import autosize, keep_choices
from fromnoise.training.base_model import keep_base, with_base
from fromnoise.training.distributed import check_equal, identity, make_accelerator, processes, weights_identity
from fromnoise.training.forecast import duration, prepare_budget
from fromnoise.training.latents import (
    autoencoder_recipe,
    load_source,
    own_budget,
    trains_first,
    with_autoencoder,
)
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.measurement_plan import CHECKPOINT_PART, is_due
from fromnoise.training.overhead import UP_FRONT
from fromnoise.training.previews import previews_of
from fromnoise.training.progress import StepReport
from fromnoise.training.resume import resume
from fromnoise.training.saving import saver_of
from fromnoise.training.self_evaluation import SelfEvaluation
from fromnoise.training.stopping import Stopped
from fromnoise.training.threads import restored_threads
from fromnoise.training.tracking import Tracking, tracker_of
from fromnoise.training.training_bar import TrainingBar
from fromnoise.utils.device import ComputeConfig, select_device
from fromnoise.utils.errors import UserError

_REPORT_SECONDS = 1.0  # between two times that reports are written, at least


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        path: the run directory.
        step: optimizer steps done.
        signal: number of the signal that stopped the run, or 0.
        seconds: duration of the training, with that before a resumption.
    """

    path: Path
    step: int
    signal: int
    seconds: float = 0.0


def train(
    recipe: Recipe, out: Path, *, device: str | None = None, precision: str = "auto", compiled: bool = False
) -> RunResult:
    """Train by a recipe in a run directory; resumes a run that the directory contains.

    Args:
        recipe: all settings.
        out: the run directory.
        device: as ``select_device``.
        precision: as ``select_device``.
        compiled: compile the network with torch.compile.

    Raises:
        UserError: the recipe, the data or the directory do not fit, or the processes do not reach each other.
    """
    with processes(device):
        return _train_together(recipe, out, device, precision, compiled)


def _train_together(recipe: Recipe, out: Path, device: str | None, precision: str, compiled: bool) -> RunResult:
    accelerator = make_accelerator(device == "cpu")
    compute = select_device(
        str(accelerator.device) if device is None or accelerator.num_processes > 1 else device, precision
    )

    def notice(line: str) -> None:
        if accelerator.is_main_process:
            tqdm.write(line, file=sys.stderr)

    with contextlib.closing(RunDir(out, notice)) as run_dir, restored_threads():
        return _train(recipe, run_dir, accelerator, compute, compiled)


def _train(
    recipe: Recipe, run_dir: RunDir, accelerator: Accelerator, compute: ComputeConfig, compiled: bool
) -> RunResult:
    main = accelerator.is_main_process

    def log(line: str) -> None:
        if main:
            tqdm.write(line, file=sys.stderr)
            run_dir.log(line)

    recipe = recipe_choice.of_run(recipe, run_dir)
    if recipe.train.autosize and run_dir.exists:
        recipe = keep_choices(recipe, run_dir.recipe())
    if run_dir.exists:
        recipe = with_autoencoder(recipe, run_dir)
    run_dir.check(recipe)
    tracker_of(recipe)  # a missing package is reported before anything is done
    data = open_data(recipe, log)
    check_equal(identity(recipe, data, compute))
    if not run_dir.exists:
        chosen = recipe_choice.for_size(recipe, data.shape)
        if chosen is not recipe:
            log(
                f"images of {data.shape[1]}x{data.shape[2]}: recipe {chosen.name} in place of {recipe.name} "
                '(data.large_recipe); --data.large_recipe "" keeps to pixels'
            )
        recipe = with_autoencoder(chosen, run_dir)
    info, autoencoder = dataset_info(recipe, data), None
    latent_diffusion = recipe.autoencoder is not None and recipe.reconstruction is None
    if latent_diffusion and recipe.latent.source and not run_dir.has_states:
        autoencoder = load_source(recipe, info)
    if recipe.train.autosize and not run_dir.exists:
        # measured by the first process, for all
        sized = autosize(recipe, info, len(data.train), compute, log) if main else recipe
        recipe = parse(broadcast_object_list([sized.model_dump(mode="json", exclude_none=True)])[0])
    model = with_base(build_trainable(recipe, info), compute, run_dir)
    check_equal(weights_identity(model.module))
    if latent_diffusion and trains_first(recipe):
        result = _train_autoencoder(recipe, run_dir, compute, accelerator.num_processes, log)
        accelerator.wait_for_everyone()  # its last files may be those of this moment
        if result.signal:
            return replace(result, path=run_dir.path, step=0)
        recipe = own_budget(recipe, result.seconds)
        model = replace(model, recipe=recipe)
        if not run_dir.has_states:
            autoencoder = checkpoint.load_autoencoder(run_dir.path / latents.FOLDER)
    if compiled and recipe.train.sharding == "full":
        raise UserError("--compile does not compile a network whose weights are sharded: leave out one of both")
    loop = TrainingLoop(
        *(model, data, compute, accelerator), lambda skip: run_dir.load_state(skip, loop.read_state), log
    )
    if main:  # created only now, after everything that may fail
        run_dir.open(recipe)
        keep_base(model, run_dir)
    accelerator.wait_for_everyone()
    log(
        f"{len(data.train):,} training images, {len(data.held_out):,} held out, {'x'.join(map(str, data.shape))}; "
        f"{model.parameters:,} parameters; {compute.describe()}"
        + (f"; weights sharded over {accelerator.num_processes} processes" if loop.layout.sharded else "")
    )
    if compiled:
        model.compile()
    resume(loop, run_dir, log, autoencoder)
    prepare_budget(loop, log)
    with stop_on_signal(loop.stop) as signals:
        if loop.budget_used < 1:
            for _ in run_steps(loop, run_dir, main, log):
                pass
        stopped = loop.budget_used < 1
        accelerator.wait_for_everyone()  # before the final samples, which may take longer than the processes' timeout
        if not stopped:
            loop.gather()
        if main and not stopped:
            try:
                _finish(loop, run_dir, log)
            except Stopped:
                stopped = True
    if stopped:
        log(f"stopped at step {loop.progress.step:,}; run the same command to resume")
    # without a signal of its own this process was stopped by another one
    number = (signals or [signal.SIGTERM])[0] if stopped else 0
    return RunResult(run_dir.path, loop.progress.step, number, loop.progress.seconds)


def _train_autoencoder(
    recipe: Recipe, run_dir: RunDir, compute: ComputeConfig, processes: int, log: Callable[[str], None]
) -> RunResult:
    """Train the autoencoder of a latent diffusion model in a folder of its run, or go on with it.

    A run that has begun keeps the autoencoder that it has, whatever its budget is now.
    """
    out = run_dir.path / latents.FOLDER
    if run_dir.has_states:
        reports = RunDir(out).read_reports()
        return RunResult(out, 0, 0, float(reports[-1]["timing"]["seconds"]) if reports else 0.0)
    log(f"first the autoencoder, in {out}: {recipe.latent.share:.0%} of the budget (latent.share)")
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16"}[compute.dtype]
    return _train_together(autoencoder_recipe(recipe, processes), out, str(compute.device), precision, compiled=False)


def run_steps(
    loop: TrainingLoop[Any], run_dir: RunDir, main: bool, log: Callable[[str], None], progress: bool | None = True
) -> Iterator[StepReport]:
    """Train, with reports, states, previews and evaluations in the run directory and a progress bar.

    Args:
        loop: resumed or new.
        run_dir: opened.
        main: whether this is the main process, which writes.
        log: receives messages.
        progress: show a progress bar; None does in terminals and notebooks.

    Yields:
        The report of each step, after everything due at that step was written.

    Raises:
        UserError: the features of self-evaluations or the tracker are not available.
    """
    config, overhead, plan = loop.config, loop.measurements.overhead, loop.measurements.plan
    previews = previews_of(loop.model, run_dir, loop.compute)
    tracking = Tracking(loop.model.recipe if main else None, run_dir.path, loop.progress.step, log)
    saver, everywhere = saver_of(loop, run_dir), main or loop.layout.sharded
    unwritten: list[dict[str, Any]] = []
    last_save, saved_step = time.monotonic(), loop.progress.step
    last_written = last_save

    def save() -> None:
        nonlocal last_save, saved_step
        with overhead.spend("checkpoint"):
            if main:  # reports first, so that the reports of every saved state are on the disk even after a kill
                run_dir.write_reports(unwritten)
                unwritten.clear()
            saver.save()
        last_save, saved_step = time.monotonic(), loop.progress.step

    def save_preview() -> None:
        with overhead.spend("preview"), contextlib.suppress(Stopped):
            loop.gather(raw=True)
            if main:
                tracking.preview(previews.save_preview(loop), loop.progress.step)
                previews.save_loss_plot()

    def evaluate() -> dict[str, Any]:
        with overhead.spend("evaluation"), contextlib.suppress(Stopped):
            loop.gather()
            if self_evaluation is not None:
                return {"evaluation": self_evaluation()}
        return {}

    def is_save_due(step: int) -> bool:
        # checkpoints that take long are rarer, so that they take a small part of the time
        rarest = overhead.last("checkpoint") / max(1e-9, CHECKPOINT_PART * config.evaluation_share)
        due = time.monotonic() - last_save > max(config.checkpoint_seconds, rarest)
        return due or (config.checkpoint_steps is not None and step % config.checkpoint_steps == 0)

    with contextlib.closing(tracking), TrainingBar(progress if main else False) as bar:
        self_evaluation, new = None, loop.progress.step == 0
        if main and new:
            previews.save_data(loop.model, loop.data)
        if everywhere and new:
            save()
        start = time.monotonic()
        with contextlib.suppress(Stopped):
            if main and plan.self_evaluations:
                with overhead.spend(UP_FRONT):
                    self_evaluation = SelfEvaluation(loop, run_dir, log)
        if everywhere and new and plan.previews and plan.at_start:
            save_preview()
        loop.reserve(overhead.last("checkpoint"))  # for the one at the end
        loop.include(time.monotonic() - start)
        used_before, agree = loop.budget_used, loop.layout.agree
        for report in loop.run():
            if not everywhere:
                yield report
                continue
            bar.update(report)
            used, evaluation = report.budget_used, {}
            if is_due(used_before, used, plan.self_evaluations):
                if agree(self_evaluation is not None and overhead.allows("evaluation", used)):
                    evaluation = evaluate()
            if main and (report.logged or evaluation):
                unwritten.append(report.to_json() | evaluation)
                tracking.report(report, evaluation.get("evaluation"))
                if time.monotonic() - last_written > _REPORT_SECONDS:  # to be watched; flushed with the next state
                    run_dir.write_reports(unwritten, to_disk=False)
                    unwritten.clear()
                    last_written = time.monotonic()
            if is_due(used_before, used, plan.previews) and agree(overhead.allows("preview", used)):
                save_preview()  # before the state, so that a run that is killed in between makes it again
            if loop.ema.snapshots is not None and is_due(used_before, used, loop.model.recipe.ema.snapshots):
                with overhead.spend("snapshot"):  # before the state, for the same reason
                    loop.ema.snapshots.save(run_dir.path, main)
            used_before = used
            stable = not loop.progress.dropped_in_a_row  # after a non-finite step the weights may be bad
            if loop.stopping or loop.budget_used >= 1 or (stable and agree(is_save_due(report.step))):
                save()
            yield report
        if everywhere and saved_step != loop.progress.step:
            save()  # the run was asked to stop after its last report
        saver.wait()


def _finish(loop: TrainingLoop[Any], run_dir: RunDir, log: Callable[[str], None]) -> None:
    """Write the model and the final samples, and print the files of the run."""
    step, overhead = loop.progress.step, loop.measurements.overhead.describe()
    if _saved_model(run_dir) != (step, loop.model.recipe):
        checkpoint.save_model(run_dir.model_file, loop.model, loop.ema_state_dict(), {"step": step})
    previews = previews_of(loop.model, run_dir, loop.compute)
    previews.save_loss_plot()
    samples = previews.save_final_samples(loop, loop.stop_requested)
    measured = f" ({loop.step_seconds:.1f} s in steps{overhead})" if loop.step_seconds else ""
    log(f"trained {step:,} steps in {duration(loop.progress.seconds)}{measured}; files in {run_dir.path}:")
    models, images = ("model.safetensors", "best.safetensors"), (*samples, "forward.png", "loss.png", "samples/")
    for name in (*models, *images, "reports.jsonl", "recipe.toml", "log"):
        if (run_dir.path / name).exists():
            print(run_dir.path / name)
    print(loop.model.next_command(run_dir.path))


def _saved_model(run_dir: RunDir) -> tuple[int, Recipe] | None:
    """Step and recipe of model.safetensors; None if it is missing or damaged."""
    try:
        loaded = checkpoint.load_trainable(run_dir.path)
        return loaded.progress["step"], loaded.model.recipe
    except (UserError, KeyError):
        return None


@contextlib.contextmanager
def stop_on_signal(stop: Callable[[], object]) -> Iterator[list[int]]:
    """Call ``stop`` on Ctrl-C (SIGINT) or SIGTERM; a second Ctrl-C raises KeyboardInterrupt.

    Yields:
        The numbers of the signals received, a list that grows.
    """
    received: list[int] = []

    def handler(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        stop()

    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, old_handler in previous.items():
            signal.signal(number, old_handler)
