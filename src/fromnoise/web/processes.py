"""Training processes: started as command lines that outlive the page, and stopped as by Ctrl-C."""

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


class Processes:
    """The commands that this server started, until they have ended; the runs themselves know nothing of it."""

    def __init__(self, runs: Path) -> None:
        """Start none yet.

        Args:
            runs: the folder of runs.
        """
        self.runs = runs
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, words: Sequence[str]) -> None:
        """Start ``fromnoise WORDS`` in a session of its own.

        Args:
            name: of the run that it writes.
            words: of the command line.

        Raises:
            UserError: a process trains in this run already, or none can be started.
        """
        if self.is_busy(name):
            raise UserError(f"{name} is training already")
        try:
            console = self.console(name)
            console.parent.mkdir(parents=True, exist_ok=True)
            with open(console, "wb") as output:
                self._started[name] = subprocess.Popen(
                    [sys.executable, "-m", "fromnoise", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # the end of this server's terminal is not that of the training
                )
        except OSError as error:
            raise UserError(f"cannot start the training: {error.strerror or error}") from None

    def console(self, name: str) -> Path:
        """The file of what a started command prints."""
        return self.runs / CONSOLES / f"{name}.log"

    def is_busy(self, name: str) -> bool:
        """Whether a process trains in a run, or is about to."""
        process = self._started.get(name)
        return (process is not None and process.poll() is None) or lock_holder(self.runs / name) is not None

    def starting(self) -> list[str]:
        """The started runs whose folders are not there yet."""
        return [
            name
            for name, process in self._started.items()
            if process.poll() is None and not (self.runs / name / "recipe.toml").exists()
        ]

    def failures(self) -> dict[str, str]:
        """The last line of each started command that ended with an error, by the name of its run."""
        found = {}
        for name, process in self._started.items():
            code = process.poll()
            if code not in (None, 0) and code < 128 and lock_holder(self.runs / name) is None:
                lines = last_lines(self.console(name), 1)
                found[name] = one_line(lines[-1]) if lines else f"the command ended with {code}"
        return found

    def stop(self, name: str) -> None:
        """Ask the process that trains in a run to stop, as Ctrl-C does: it writes its state and ends.

        Raises:
            UserError: none does on this machine.
        """
        holder = lock_holder(self.runs / name)
        process = self._started.get(name)
        if holder is None and process is not None and process.poll() is None:
            holder = process.pid  # it has not locked its folder yet
        if holder is None:
            raise UserError(f"no process of this machine trains in {name}")
        try:
            os.kill(holder, signal.SIGINT)
        except ProcessLookupError:
            raise UserError(f"the training of {name} has just ended") from None
        except PermissionError:
            raise UserError(f"{name} is trained by another user") from None
