"""The files of a run: opened and locked, the recipe, the training states and the log."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from fromnoise import checkpoint
from fromnoise.config import BUDGETS, Recipe, difference, parse, parse_toml, to_toml
from fromnoise.run_dir import reports
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import TEMPORARY, append, check_folder, write_atomic
from fromnoise.utils.locks import LOCK, lock_folder, unlock_folder
from fromnoise.utils.reading import UnreadableFile, read_bytes, read_text

_TRAIN_KEYS = (
    *("accumulate", "checkpoint_seconds", "checkpoint_steps", "evaluation_share", "evaluations", "held_out"),
    *("min_steps", "previews", "report_every", "sharding", "threads"),
)
_CHANGEABLE_KEYS = (
    *(f"train.{key}" for key in (*BUDGETS, *_TRAIN_KEYS)),
    *(
        "train.tracker",
        "train.init_from",
        "data.workers",
        "data.memory_gb",
        "data.skip_damaged",
        "name",
        "about",
        "cost",
        "quality",
    ),
    *(
        "expected_loss",
        "loss_source",
        "data.large_recipe",
        "data.large_side",
        "latent.source",
        "latent.recipe",
        "latent.share",
        "latent.cache",
    ),
)  # keys of the recipe that a resumed run may change
_CHANGEABLE_SECTIONS = ("sample.", "evaluation.", "train.tracker.")
_STATES_KEPT = 2
_SHARDS = "*.shards"

StateReader = Callable[[Path], tuple[dict[str, Tensor], dict[str, Any]]]
"""Reads tensors and header of a state; raises DamagedFile."""


class RunDir:
    """The files of a run.

    Attributes:
        path: the directory.
        model_file: model.safetensors, the EMA weights for sampling.
        samples: directory of the previews.
        states: directory of the training states.
        reports: reports.jsonl.
        log_file: log.
        recipe_file: recipe.toml.
        base_file: base.safetensors, the model from which training started (``train.init_from``), if there is one.
    """

    def __init__(self, path: Path, on_notice: Callable[[str], object] = lambda line: None) -> None:
        """Name the files; nothing is created, and log lines are kept in memory until ``open``.

        Args:
            path: the directory.
            on_notice: called with a line for each file that was found damaged; the log has these lines too.
        """
        self.path, self._on_notice = path, on_notice
        self._buffered_log: list[str] | None = []
        self._lock: int | None = None
        self.model_file, self.samples, self.states = path / "model.safetensors", path / "samples", path / "state"
        self.reports, self.log_file, self.recipe_file = path / "reports.jsonl", path / "log", path / "recipe.toml"
        self.base_file = path / "base.safetensors"
        self._noticed: set[str] = set()

    @property
    def exists(self) -> bool:
        """Whether the directory contains a run."""
        return self.recipe_file.exists() or bool(self._state_files())

    @property
    def has_states(self) -> bool:
        """Whether training has begun."""
        return bool(self._state_files())

    @property
    def newest_step(self) -> int:
        """The step of the newest training state; -1 if there is none."""
        return next((int(path.stem) for path in self._state_files() if path.stem.isdecimal()), -1)

    def check(self, recipe: Recipe) -> None:
        """Check that a run of this recipe can be started or resumed here; nothing is created.

        A resumed run may change the budget, intervals, and the sections sample and evaluation.

        Raises:
            UserError: the directory cannot be written, or contains something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: choose a directory for --out")
        if self.exists:
            changed = fixed_difference(self.recipe(), recipe)
            if changed:
                more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
                raise UserError(
                    f"{self.path} contains a run with a different recipe: {changed[0]}{more}; choose another --out"
                )
        elif self.path.is_dir() and not all(map(self._is_left_over, self.path.iterdir())):
            raise UserError(f"{self.path} is not empty and contains no run: choose another --out")
        check_folder(self.path)

    def _is_left_over(self, entry: Path) -> bool:
        """Whether a file in the directory may be there before the recipe is, after a kill at the start of a run."""
        if entry.name == "autoencoder" and entry.is_dir():  # trained first: see training/latents.py
            return (entry / "recipe.toml").exists() or all(map(self._is_left_over, entry.iterdir()))
        return entry.name == LOCK or entry.match(TEMPORARY)

    def open(self, recipe: Recipe) -> None:
        """Create the directory, or reopen it, and lock it against other training processes.

        Raises:
            UserError: as ``check``, or another process is training here; nothing is changed then.
        """
        self.check(recipe)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.path)
            self.check(recipe)  # another process may have started a run since
            self._write_recipe(recipe)
            self.samples.mkdir(exist_ok=True)
            self.states.mkdir(exist_ok=True)
            for folder in (self.path, self.states, self.samples):
                for temporary in folder.glob(TEMPORARY):
                    temporary.unlink(missing_ok=True)  # left by a killed process
            self._remove_shards()
        except BlockingIOError:
            raise UserError(
                f"another process is training in {self.path}: wait for it, or choose another --out"
            ) from None
        except OSError as e:
            raise UserError(f"cannot write in {self.path}: {e.strerror}") from None
        buffered, self._buffered_log = self._buffered_log or [], None
        for line in buffered:
            self.log(line)

    def close(self) -> None:
        """Release the lock, and remove its file."""
        unlock_folder(self.path, self._lock, remove=True)
        self._lock = None

    # ---- the recipe

    def recipe(self) -> Recipe:
        """The recipe of the run: recipe.toml, which must agree with the newest training state.

        Where recipe.toml is damaged or was changed, the states decide, and a notice says so.

        Raises:
            UserError: it cannot be read, and there is no state.
        """
        try:
            written, problem = self._written_recipe(), None
        except UserError as error:
            checkpoint.check_run_format(self.path)  # an older version has other keys
            written, problem = None, error
        if written is not None and self._agrees(written):
            return written
        for path in self._state_files():
            try:
                saved, _ = checkpoint.parse_header(checkpoint.read(path)[1], path)
            except UserError:
                continue  # named when the states are loaded
            changed = fixed_difference(written, saved) if written is not None else []
            if problem is not None or changed:
                reason = str(problem) if problem is not None else f"{self.recipe_file} was changed ({changed[0]})"
                self._notice(f"{reason}; using the recipe that is stored in {path}")
            return saved
        if written is None:
            raise problem or UserError(f"{self.recipe_file} is missing")
        return written

    def _written_recipe(self) -> Recipe:
        text = read_text(self.recipe_file)
        try:
            return parse(parse_toml(text, self.recipe_file))
        except UserError as error:
            named = str(error).startswith(str(self.recipe_file))
            raise error if named else UserError(f"{self.recipe_file}: {error}") from None

    def _agrees(self, written: Recipe) -> bool:
        """Whether a recipe is that of the newest state, as far as its header can be read without the tensors."""
        path = next(iter(self._state_files()), None)
        try:
            saved = checkpoint.parse_header(checkpoint.read_header(path), path)[0] if path is not None else written
        except UserError:
            return False
        return not fixed_difference(written, saved)

    def _write_recipe(self, recipe: Recipe) -> None:
        """Write recipe.toml if it differs; a damaged or changed one is kept beside it."""
        text = to_toml(recipe).encode()
        if self.recipe_file.exists():
            try:
                damaged = bool(fixed_difference(self._written_recipe(), recipe))
            except UserError:
                damaged = True
            with contextlib.suppress(UnreadableFile):
                present = read_bytes(self.recipe_file)
                if present == text:
                    return
                if damaged:
                    write_atomic(self.recipe_file.with_name("recipe.toml.damaged"), present)
        write_atomic(self.recipe_file, text)

    # ---- training states

    def save_state(self, step: int, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Write the training state of a step, and delete all but the newest two.

        Raises:
            UserError: the file cannot be written.
        """
        checkpoint.write(self.state_file(step), tensors, header)
        self.remove_old_states()

    def state_file(self, step: int) -> Path:
        """The file of the state of a step; one of several files is complete when this one is there."""
        return self.states / f"{step:09d}.safetensors"

    def remove_old_states(self) -> None:
        """Delete all training states but the newest two."""
        for old in self._state_files()[_STATES_KEPT:]:
            old.unlink(missing_ok=True)
        self._remove_shards()

    def _remove_shards(self) -> None:
        """Delete the folders of states that are gone, or that a kill left incomplete."""
        if not any(self.states.glob(_SHARDS)):
            return
        kept: set[str | None] = set()
        for path in (*self._state_files(), *self.states.glob("*.damaged")):
            with contextlib.suppress(UserError):
                kept.add(checkpoint.shard_folder(checkpoint.read_header(path)))
        for folder in self.states.glob(_SHARDS):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def load_state(
        self, skip: int = 0, read: StateReader = checkpoint.read_state
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read the newest training state; a damaged one is logged and renamed, and the one before it is read.

        Args:
            skip: number of newer states to skip, limited so that the oldest is not skipped.
            read: reads a state; processes that share its parts bring their own.

        Returns:
            Tensors and header; None if the run has no state yet.

        Raises:
            UserError: all states are damaged, or one cannot be read.
        """
        states = self._state_files()
        for path in states[min(skip, max(0, len(states) - 1)) :]:
            try:
                return read(path)
            except checkpoint.DamagedFile as e:
                self._notice(f"{e}; reading the checkpoint before it")
                with contextlib.suppress(FileNotFoundError):  # another process has renamed it
                    path.rename(path.with_suffix(".damaged"))
        if any(self.states.glob("*.damaged")):
            raise UserError(
                f"all checkpoints in {self.states} are damaged: choose another --out, or delete {self.path}"
            )
        return None

    def _state_files(self) -> list[Path]:
        """The training states, newest first."""
        return sorted(self.states.glob("*.safetensors"), reverse=True)

    # ---- reports and log

    def truncate_reports(self, step: int) -> None:
        """Delete the reports after a step, which will be written again, and damaged lines.

        A file with damaged lines is kept as reports.jsonl.damaged.

        Raises:
            UserError: the file cannot be read or written.
        """
        found = self._read_reports()
        if found.dropped:
            write_atomic(self.reports.with_name("reports.jsonl.damaged"), found.content)
        reports.write_reports(self.reports, [report for report in found.reports if report["step"] <= step])

    def read_reports(self) -> list[dict[str, Any]]:
        """The lines of reports.jsonl; damaged ones are left out, and a notice says so.

        Raises:
            UnreadableFile: it is not a regular file, is too large, or cannot be read.
        """
        return self._read_reports().reports

    def _read_reports(self) -> reports.ReadReports:
        found = reports.read_reports(self.reports)
        if found.notice is not None:
            self._notice(f"{self.reports}: {found.notice}")
        return found

    def write_reports(self, lines: list[dict[str, Any]], to_disk: bool = True) -> None:
        """Append lines to reports.jsonl.

        Args:
            lines: may be empty, to flush only.
            to_disk: flush all lines to the disk.

        Raises:
            UserError: the disk is full.
        """
        if not lines and not (to_disk and self.reports.exists()):
            return
        try:
            reports.append_reports(self.reports, lines, to_disk)
        except OSError as e:
            raise UserError(f"cannot write {self.reports}: {e.strerror}") from None

    def log(self, line: str) -> None:
        """Append a line with the time to the log."""
        if self._buffered_log is not None:
            self._buffered_log.append(line)
            return
        with contextlib.suppress(OSError):  # a full disk is reported when a checkpoint cannot be written
            append(self.log_file, f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n".encode())

    def _notice(self, line: str) -> None:
        """Tell the user and the log once that a file is damaged."""
        if line not in self._noticed:
            self._noticed.add(line)
            self._on_notice(line)
            self.log(line)


def fixed_difference(before: Recipe, after: Recipe) -> list[str]:
    """The differences between two recipes in keys that a resumed run may not change."""
    keys = difference(before, after, _CHANGEABLE_KEYS)
    return [key for key in keys if not key.startswith(_CHANGEABLE_SECTIONS)]
