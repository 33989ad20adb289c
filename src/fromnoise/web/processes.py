"""Trainings and evaluations: started as command lines that outlive the server, and stopped as by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fromnoise.utils.errors import UserError, one_line
from fromnoise.utils.locks import lock_holder
from fromnoise.web.run_state import last_lines

CONSOLES = ".console"
"""Folder, in that of the runs, of what the started commands print."""
_EVALUATION = ": evaluation"
_PATIENCE = 5.0  # seconds that a process may take to end after it has released its run
_SIGNALS = 128  # exit codes from here on are those of signals


class Processes:
    """The commands that this server started, until they have ended; the runs themselves know nothing of it."""

    def __init__(self, runs: Path) -> None:
        """Start none yet.

        Args:
            runs: the folder of runs.
        """
        self.runs = runs
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def train(self, name: str, words: Sequence[str]) -> None:
        """Start a training; one that has just been stopped here is waited for.

        Args:
            name: of the run that it writes.
            words: of the command line.

        Raises:
            UserError: a process trains in this run already, or none can be started.
        """
        if lock_holder(self.runs / name) is not None:
            raise UserError(f"{name} is training already")
        process = self._started.get(name)
        if process is not None:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                raise UserError(f"{name} is starting already") from None
        self._start(name, words)

    def evaluate(self, name: str, words: Sequence[str]) -> None:
        """Start an evaluation.

        Args:
            name: of the run that is evaluated.
            words: of the command line.

        Raises:
            UserError: it is being evaluated already, or no process can be started.
        """
        if self._is_running(evaluation_of(name)):
            raise UserError(f"{name} is being evaluated already")
        self._start(evaluation_of(name), words)

    def _start(self, key: str, words: Sequence[str]) -> None:
        """Start ``fromnoise WORDS`` in a session of its own."""
        try:
            console = self.console(key)
            console.parent.mkdir(parents=True, exist_ok=True)
            with open(console, "wb") as output:
                self._started[key] = subprocess.Popen(
                    [sys.executable, "-m", "fromnoise", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # the end of this server's terminal is not that of the training
                )
        except OSError as error:
            raise UserError(f"cannot start fromnoise {words[0]}: {error.strerror or error}") from None

    def _is_running(self, key: str) -> bool:
        process = self._started.get(key)
        return process is not None and process.poll() is None

    def console(self, key: str) -> Path:
        """The file of what a started command prints."""
        return self.runs / CONSOLES / f"{key}.log"

    def starting(self) -> list[str]:
        """The started runs whose folders are not there yet."""
        return [key for key in self._started if self._is_running(key) and not self._is_there(key)]

    def _is_there(self, key: str) -> bool:
        return key.endswith(_EVALUATION) or (self.runs / key / "recipe.toml").exists()

    def evaluating(self) -> list[str]:
        """The runs that are being evaluated."""
        found = [key for key in self._started if key.endswith(_EVALUATION) and self._is_running(key)]
        return [key.removesuffix(_EVALUATION) for key in found]

    def failures(self) -> dict[str, str]:
        """The last line of each started command that ended with an error, by the name of its run."""
        found = {}
        for key, process in self._started.items():
            code = process.poll()
            if code not in (None, 0) and 0 < code < _SIGNALS:
                lines = last_lines(self.console(key), 1)
                name = key.removesuffix(_EVALUATION)
                found[name] = one_line(lines[-1]) if lines else f"the command ended with {code}"
        return found

    def stop(self, name: str) -> None:
        """Ask the process that trains in a run to stop, as Ctrl-C does: it writes its state and ends.

        Raises:
            UserError: none does on this machine.
        """
        holder = lock_holder(self.runs / name)
        if holder is None and self._is_running(name):
            holder = self._started[name].pid  # it has not locked its folder yet
        if holder is None:
            raise UserError(f"no process of this machine trains in {name}")
        try:
            os.kill(holder, signal.SIGINT)
        except ProcessLookupError:
            raise UserError(f"the training of {name} has just ended") from None
        except PermissionError:
            raise UserError(f"{name} is trained by another user") from None


def evaluation_of(name: str) -> str:
    """The key of the evaluation of a run; no run has this name."""
    return f"{name}{_EVALUATION}"
