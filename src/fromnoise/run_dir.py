"""The run folder: recipe.toml, reports.jsonl, model.safetensors, state/, samples/, log."""

from __future__ import annotations

import json
import os
import time
import tomllib
from pathlib import Path
from typing import Any

from torch import Tensor

from fromnoise import checkpoint
from fromnoise.config import BUDGETS, Recipe, difference, parse, to_toml
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import check_folder, write_atomic

_FREE = (
    *(f"train.{b}" for b in BUDGETS),
    *("train.report_every", "train.evaluations", "train.held_out", "train.previews", "train.checkpoint_seconds"),
    *(
        "train.checkpoint_steps",
        "train.accumulate",
        "data.workers",
        "data.memory_gb",
        "name",
        "about",
        "cost",
        "quality",
    ),
)  # what may change when a run goes on
_FREE_PARTS = ("sample.", "evaluation.")
_KEEP = 2


class RunDir:
    """Where a run lives. Opening one that holds another recipe is refused."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is touched yet, and lines of the log wait until it is opened."""
        self.path = path
        self._waiting: list[str] | None = []
        self.model, self.samples, self.states = path / "model.safetensors", path / "samples", path / "state"
        self.reports, self.log_file, self.recipe_file = path / "reports.jsonl", path / "log", path / "recipe.toml"

    def check(self, recipe: Recipe) -> None:
        """Look whether a run of ``recipe`` can live here; budget, intervals and sampling may differ. Nothing is made.

        Raises:
            UserError: it cannot be written, or holds something else.
        """
        if self.recipe_file.exists():
            before = self.recipe()
            changed = [d for d in difference(before, recipe, _FREE) if not d.startswith(_FREE_PARTS)]
            if changed:
                more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
                raise UserError(
                    f"{self.path} holds a run of a different recipe: {changed[0]}{more}; choose another --out"
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and holds no run: choose another --out")
        elif self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: choose a folder for --out")
        check_folder(self.path)

    def open(self, recipe: Recipe) -> None:
        """Make the folder, or go on in it.

        Raises:
            UserError: as ``check``.
        """
        self.check(recipe)
        text = to_toml(recipe)
        if not self.recipe_file.exists() or self.recipe_file.read_text(encoding="utf-8") != text:
            write_atomic(self.recipe_file, text.encode())
        try:
            self.samples.mkdir(exist_ok=True)
            self.states.mkdir(exist_ok=True)
            self._lock()
            for stale in (*self.path.glob(".*.tmp"), *self.states.glob(".*.tmp"), *self.samples.glob(".*.tmp")):
                stale.unlink(missing_ok=True)  # what a kill left
        except OSError as e:
            raise UserError(f"cannot write in {self.path}: {e.strerror}") from None
        waiting, self._waiting = self._waiting or [], None
        for line in waiting:
            self.log(line)

    def _lock(self) -> None:
        """Keep other processes from training here, where the system can; the lock ends with this process."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        self._held = open(self.states / ".lock", "w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {self.path}: wait for it, or choose another --out"
            ) from None

    def recipe(self) -> Recipe:
        """The recipe that the folder holds.

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

    # ---- state

    def save_state(self, step: int, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Write the state of a step, and drop all but it and the one before.

        Raises:
            UserError: as ``disk.write_atomic``.
        """
        checkpoint.write(self.states / f"{step:09d}.safetensors", tensors, header)
        for old in self._states()[_KEEP:]:
            old.unlink(missing_ok=True)

    def load_state(self, skip: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole state, or an older one; a damaged one is named in the log and the one before is taken.

        Args:
            skip: states to pass over, as far as there are older ones.

        Returns:
            Tensors and header; None if the run has written none yet.

        Raises:
            UserError: all that were written are damaged, or one cannot be read.
        """
        states = self._states()
        for path in states[min(skip, max(0, len(states) - 1)) :]:
            try:
                return checkpoint.read(path)
            except checkpoint.DamagedFile as e:
                self.log(f"{e}; taking the checkpoint before it")
                try:
                    path.rename(path.with_suffix(".damaged"))
                except FileNotFoundError:
                    pass  # another process was first
        if any(self.states.glob("*.damaged")):
            raise UserError(
                f"no checkpoint in {self.states} is whole: choose another --out, or delete it to begin again"
            )
        return None

    def _states(self) -> list[Path]:
        return sorted(self.states.glob("*.safetensors"), reverse=True)

    # ---- reports and log

    def truncate_reports(self, step: int) -> None:
        """Forget the reports after ``step``: they will be written again, and half a line that a kill left."""
        lines = [json.dumps(r) for r in self.read_reports() if r["step"] <= step]
        write_atomic(self.reports, "".join(line + "\n" for line in lines).encode())

    def read_reports(self) -> list[dict[str, Any]]:
        """All whole lines of reports.jsonl."""
        out = []
        if self.reports.exists():
            for line in self.reports.read_text().splitlines():
                try:
                    out.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return out

    def write_reports(self, lines: list[dict[str, Any]]) -> None:
        """Append reports and flush them to the disk.

        Raises:
            UserError: the disk is full.
        """
        if not lines:
            return
        try:
            with open(self.reports, "a") as f:
                f.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise UserError(f"cannot write {self.reports}: {e.strerror}") from None

    def log(self, line: str) -> None:
        """Append a line for people to the log."""
        if self._waiting is not None:
            self._waiting.append(line)
            return
        try:
            with open(self.log_file, "a") as f:
                f.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
        except OSError:
            pass  # a full disk is told of where it matters: at the checkpoint
