"""A training run from recipe to pictures.

Opens the data, resumes, trains, checkpoints, previews, and draws at the end.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from fromnoise import checkpoint
from fromnoise.config import Recipe
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.model import build
from fromnoise.run_dir import RunDir
from fromnoise.training import autosize
from fromnoise.training.distributed import same_step
from fromnoise.training.previews import Previews
from fromnoise.training.progress import StepReport
from fromnoise.training.self_evaluation import SelfEvaluation
from fromnoise.training.trainer import Trainer
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: of the run.
        step: steps done.
        signal: number of the signal that stopped it early, or 0.
    """

    folder: Path
    step: int
    signal: int


def train(
    recipe: Recipe, out: Path, *, device: str | None = None, precision: str = "auto", compiled: bool = False
) -> Outcome:
    """Train by a recipe in a run folder, going on from where it was left.

    Args:
        recipe: every choice.
        out: the run folder.
        device: as ``compute.choose``.
        precision: as ``compute.choose``.
        compiled: compile the network first.

    Raises:
        UserError: a mistake of the user's, told in one line.
    """
    # of accelerate only the processes: device, precision and the size of a batch are the recipe's and ours
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", device_placement=False)
    main = accelerator.is_main_process
    compute = select_device(
        str(accelerator.device) if device is None or accelerator.num_processes > 1 else device, precision
    )
    folder = RunDir(out)

    def log(line: str) -> None:
        if main:
            tqdm.write(line, file=sys.stderr)
            folder.log(line)

    if recipe.train.autosize and folder.recipe_file.exists():
        recipe = autosize.taken(recipe, folder.recipe())
    folder.check(recipe)
    data = open_data(recipe, log)
    if recipe.train.autosize and not folder.recipe_file.exists():
        # the first process's clock decides for all
        mine = autosize.fit(recipe, dataset_info(recipe, data), len(data.train), compute, log) if main else recipe
        recipe = broadcast_object_list([mine])[0]
    model = build(recipe, dataset_info(recipe, data))
    trainer = Trainer(model, data, compute, accelerator, folder.load_state, log)
    if main:  # the folder is made when nothing can be wrong any more
        folder.open(recipe)
    accelerator.wait_for_everyone()
    log(
        f"{len(data.train):,} training images, {len(data.held_out):,} held out, {'x'.join(map(str, data.shape))}; "
        f"{model.parameters:,} parameters; {compute.describe()}"
    )
    if compiled:
        model.denoiser.network.compile()
    resume(trainer, folder, log)
    with signals(trainer.stop) as caught:
        if trainer.fraction < 1:
            for _ in run_steps(trainer, folder, main, log):
                pass
    stopped = trainer.fraction < 1
    if stopped:
        log(f"stopped at step {trainer.progress.step:,}; the same command goes on from there")
    accelerator.wait_for_everyone()  # not after the last pictures, which may take longer than processes wait
    if main and not stopped:
        _finish(trainer, folder, log)
    # a process that was not told itself was stopped by another that was
    number = (caught or [signal.SIGTERM])[0] if stopped else 0
    return Outcome(folder.path, trainer.progress.step, number)


def resume(trainer: Trainer, folder: RunDir, log: Callable[[str], None]) -> None:
    """Continue from the newest state of the run directory, or start; refuses data of another shape or other classes."""
    state = folder.load_state()
    if state is not None:
        _, was = checkpoint.parse_header(state[1])
        now = trainer.model.dataset_info
        for what, before, here in (("shape", was.shape, now.shape), ("labels", was.class_names, now.class_names)):
            if before != here:
                raise UserError(
                    f"{folder.path} was trained on images of {what} {before}, not {here}: choose another --out"
                )
        if was.fingerprint != now.fingerprint:
            log("the data have changed since this run began; going on with the new ones")
        trainer.resume(*state)
        log(f"going on from step {trainer.progress.step:,}")
    else:
        trainer.find_clusters()
    if trainer.accelerator.is_main_process:
        folder.truncate_reports(trainer.progress.step)
    same_step(trainer.accelerator, trainer.compute.device, trainer.progress.step)


def run_steps(trainer: Trainer, folder: RunDir, main: bool, log: Callable[[str], None]) -> Iterator[StepReport]:
    """Train with a progress bar, checkpoints, reports and previews; yields the report of each step."""
    recipe = trainer.recipe
    previews = Previews(folder, trainer.compute)
    self_evaluation = SelfEvaluation(trainer, folder, log) if main and trainer.model.recipe.evaluation.times else None
    waiting: list[dict[str, Any]] = []
    saved = time.monotonic()

    def save() -> None:
        # reports first: whatever state a kill leaves, the reports up to it are on the disk
        folder.write_reports(waiting)
        waiting.clear()
        tensors, header = trainer.state()
        folder.save_state(
            trainer.progress.step,
            tensors,
            header | checkpoint.model_header(trainer.model.recipe, trainer.model.dataset_info),
        )
        checkpoint.save_model(folder.model, trainer.model, trainer.weights(), {"step": trainer.progress.step})

    if main and trainer.progress.step == 0:
        previews.data(trainer.model, trainer.data)
        if recipe.previews:
            previews.preview(trainer)
        save()
    # in a terminal the bar moves on the spot; in a log file each redraw is a line's worth, so they are rare
    interval = 0.2 if sys.stderr.isatty() else 20.0
    bar_format = "{percentage:3.0f}% {bar:24} {desc}"
    with tqdm(total=100.0, disable=not main, bar_format=bar_format, mininterval=interval, file=sys.stderr) as bar:
        before = trainer.fraction
        for report in trainer.run():
            if not main:
                yield report
                continue
            bar.set_description_str(status(report), refresh=False)
            bar.update(min(100.0, 100 * report.progress) - bar.n)
            if self_evaluation is not None and self_evaluation.due(before, report.progress):
                waiting.append(report.line() | {"evaluation": self_evaluation()})
            elif report.kept:
                waiting.append(report.line())
            shown = int(before * recipe.previews) != int(report.progress * recipe.previews)
            before = report.progress
            due = time.monotonic() - saved > recipe.checkpoint_seconds
            due |= recipe.checkpoint_steps is not None and report.step % recipe.checkpoint_steps == 0
            calm = not trainer.progress.dropped_in_row  # between bad steps the weights may be bad
            if trainer.stopping or trainer.fraction >= 1 or (calm and (due or shown)):
                save()
                saved = time.monotonic()
            if shown:
                previews.preview(trainer)
                previews.curves()
            yield report


def status(r: StepReport) -> str:
    """A report in a few words, for a bar."""
    left = r.clock["left_seconds"]
    time_left = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
    dropped = f", {r.dropped} dropped" if r.dropped else ""
    return f"step {r.step:,}, loss {r.loss:.4f}, {r.clock['images_per_second']:.0f} images/s, {time_left} left{dropped}"


def _finish(trainer: Trainer, folder: RunDir, log: Callable[[str], None]) -> None:
    """Leave the model and the finished pictures, and say where they are."""
    step = trainer.progress.step
    if _written(folder) != (step, trainer.model.recipe):
        checkpoint.save_model(folder.model, trainer.model, trainer.weights(), {"step": step})
    previews = Previews(folder, trainer.compute)
    previews.curves()
    made = previews.finished(trainer)
    log(f"trained {step:,} steps in {trainer.progress.seconds / 60:.1f} minutes; in {folder.path}:")
    for name in [
        "model.safetensors",
        "best.safetensors",
        *made,
        "forward.png",
        "loss.png",
        "samples/",
        "reports.jsonl",
        "recipe.toml",
        "log",
    ]:
        if (folder.path / name).exists():
            print(folder.path / name)
    print(f"more pictures: fromnoise sample {folder.path} -n 100 --out more.png")


def _written(folder: RunDir) -> tuple[int, Recipe] | None:
    """Step and recipe of the model that stands in the folder, if a whole one does."""
    try:
        loaded = checkpoint.load_model(folder.path)
        return loaded.progress["step"], loaded.model.recipe
    except UserError:
        return None


@contextmanager
def signals(stop: Callable[[], object]) -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM call ``stop``, to end a loop after the running step; a second Ctrl-C ends it at once."""
    caught: list[int] = []

    def told(number: int, frame: object) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)
        stop()

    before = {n: signal.signal(n, told) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
