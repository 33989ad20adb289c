"""The run directory: recipe.toml, reports.jsonl, model.safetensors, state/, samples/ and log."""

from __future__ import annotations

import json
import os
import time
import tomllib
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from fromnoise import checkpoint
from fromnoise.config import BUDGETS, Recipe, difference, parse, to_toml
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import check_folder, write_atomic

_TRAIN_KEYS = (
    *("accumulate", "checkpoint_seconds", "checkpoint_steps", "evaluation_share", "evaluations", "held_out"),
    *("min_steps", "previews", "report_every", "threads"),
)
_CHANGEABLE_KEYS = (
    *(f"train.{key}" for key in (*BUDGETS, *_TRAIN_KEYS)),
    *("train.tracker", "data.workers", "data.memory_gb", "name", "about", "cost", "quality"),
)  # keys of the recipe that a resumed run may change
_CHANGEABLE_SECTIONS = ("sample.", "evaluation.", "train.tracker.")
_STATES_KEPT = 2


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
    """

    def __init__(self, path: Path) -> None:
        """Name the files; nothing is created, and log lines are kept in memory until ``open``."""
        self.path = path
        self._buffered_log: list[str] | None = []
        self._lock_file: IO[str] | None = None
        self.model_file, self.samples, self.states = path / "model.safetensors", path / "samples", path / "state"
        self.reports, self.log_file, self.recipe_file = path / "reports.jsonl", path / "log", path / "recipe.toml"

    def check(self, recipe: Recipe) -> None:
        """Check that a run of this recipe can be started or resumed here; nothing is created.

        A resumed run may change the budget, intervals, the tracker, and the sections sample and evaluation.

        Raises:
            UserError: the directory cannot be written, or contains something else.
        """
        if self.recipe_file.exists():
            changed = [
                key
                for key in difference(self.recipe(), recipe, _CHANGEABLE_KEYS)
                if not key.startswith(_CHANGEABLE_SECTIONS)
            ]
            if changed:
                more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
                raise UserError(
                    f"{self.path} contains a run with a different recipe: {changed[0]}{more}; choose another --out"
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and contains no run: choose another --out")
        elif self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: choose a directory for --out")
        check_folder(self.path)

    def open(self, recipe: Recipe) -> None:
        """Create the directory, or reopen it, and lock it against other training processes.

        Raises:
            UserError: as ``check``, or another process is training here.
        """
        self.check(recipe)
        text = to_toml(recipe)
        if not self.recipe_file.exists() or self.recipe_file.read_text(encoding="utf-8") != text:
            write_atomic(self.recipe_file, text.encode())
        try:
            self.samples.mkdir(exist_ok=True)
            self.states.mkdir(exist_ok=True)
            self._lock()
            for temporary in (*self.path.glob(".*.tmp"), *self.states.glob(".*.tmp"), *self.samples.glob(".*.tmp")):
                temporary.unlink(missing_ok=True)  # left by a killed process
        except OSError as e:
            raise UserError(f"cannot write in {self.path}: {e.strerror}") from None
        buffered, self._buffered_log = self._buffered_log or [], None
        for line in buffered:
            self.log(line)

    def _lock(self) -> None:
        """Keep other processes from training here, where flock exists, until ``close`` or the end of this process."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        self._lock_file = open(self.states / ".lock", "w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {self.path}: wait for it, or choose another --out"
            ) from None

    def close(self) -> None:
        """Release the lock."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def recipe(self) -> Recipe:
        """Read recipe.toml.

        Raises:
            UserError: it cannot be read.
        """
        try:
            return parse(tomllib.loads(self.recipe_file.read_text(encoding="utf-8")))
        except UserError:
            checkpoint.check_run_format(self.path)  # an older version has other keys
            raise
        except (OSError, ValueError) as e:
            raise UserError(f"cannot read {self.recipe_file}: {e}") from None

    # ---- training states

    def save_state(self, step: int, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Write the training state of a step, and delete all but the newest two.

        Raises:
            UserError: the file cannot be written.
        """
        checkpoint.write(self.states / f"{step:09d}.safetensors", tensors, header)
        for old in self._state_files()[_STATES_KEPT:]:
            old.unlink(missing_ok=True)

    def load_state(self, skip: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read the newest training state; a damaged one is logged and renamed, and the one before it is read.

        Args:
            skip: number of newer states to skip, limited so that the oldest is not skipped.

        Returns:
            Tensors and header; None if the run has no state yet.

        Raises:
            UserError: all states are damaged, or one cannot be read.
        """
        states = self._state_files()
        for path in states[min(skip, max(0, len(states) - 1)) :]:
            try:
                return checkpoint.read(path)
            except checkpoint.DamagedFile as e:
                self.log(f"{e}; reading the checkpoint before it")
                try:
                    path.rename(path.with_suffix(".damaged"))
                except FileNotFoundError:
                    pass  # another process has renamed it
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
        """Delete the reports after a step, which will be written again, and an incomplete last line."""
        lines = [json.dumps(report) for report in self.read_reports() if report["step"] <= step]
        write_atomic(self.reports, "".join(line + "\n" for line in lines).encode())

    def read_reports(self) -> list[dict[str, Any]]:
        """The lines of reports.jsonl up to the first incomplete one."""
        reports = []
        if self.reports.exists():
            for line in self.reports.read_text().splitlines():
                try:
                    reports.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return reports

    def write_reports(self, reports: list[dict[str, Any]]) -> None:
        """Append lines to reports.jsonl, and flush them to the disk.

        Raises:
            UserError: the disk is full.
        """
        if not reports:
            return
        try:
            with open(self.reports, "a") as f:
                f.writelines(json.dumps(report, allow_nan=False) + "\n" for report in reports)
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise UserError(f"cannot write {self.reports}: {e.strerror}") from None

    def log(self, line: str) -> None:
        """Append a line with the time to the log."""
        if self._buffered_log is not None:
            self._buffered_log.append(line)
            return
        try:
            with open(self.log_file, "a") as f:
                f.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
        except OSError:
            pass  # a full disk is reported when a checkpoint cannot be written
