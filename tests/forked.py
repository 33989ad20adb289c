"""``fromnoise WORDS`` in processes that are forked from one which has imported the package.

A start of Python with torch takes 4 s of processor time, a fork 0.1 s. The processes are otherwise those of a shell:
signals reach them, they can be killed, and they end with an exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PRELOADED = [
    "pytest",  # the main module, which every process imports
    "fromnoise.api",
    "fromnoise.evaluation.compare",
    "fromnoise.training.run",
    "fromnoise.training.trainer",
    "matplotlib.figure",
    "sklearn.cluster",
    "sklearn.datasets",
    "torch._dynamo",  # imported by torch's optimizers
]
"""Modules that are imported once, for all processes."""


def context() -> multiprocessing.context.ForkServerContext:
    """The server of this session from which processes are forked."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


class ForkedCommand:
    """A command that runs, with the methods of ``subprocess.Popen`` that the tests use.

    Attributes:
        pid: of the process.
    """

    def __init__(self, words: Sequence[object], environment: Mapping[str, str] | None = None) -> None:
        """Start ``fromnoise WORDS`` with one thread in the current folder.

        Args:
            words: the command line after ``fromnoise``.
            environment: further variables.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        files = [Path(self._folder.name) / name for name in ("out", "err")]
        for file in files:
            file.touch()
        self._out, self._err = files
        variables = dict(os.environ) | dict(environment or {})
        arguments = (list(map(str, words)), variables, os.getcwd(), *map(str, files))
        self._process = context().Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Wait for the end; the exit code.

        Raises:
            subprocess.TimeoutExpired: it runs longer; it is killed then.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired("fromnoise", timeout)
        return self._process.exitcode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for the end; standard output and error."""
        self.wait(timeout)
        return self._out.read_text(encoding="utf-8"), self._err.read_text(encoding="utf-8")

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it runs."""
        self.send_signal(signal.SIGKILL)


def _run(words: list[str], variables: dict[str, str], folder: str, out: str, err: str) -> None:
    for descriptor, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY)
        os.dup2(handle, descriptor)
        os.close(handle)
    os.environ.clear()
    os.environ |= variables
    os.chdir(folder)
    import torch

    from fromnoise.cli import main
    from fromnoise.reporting import plots

    torch.set_num_threads(1)
    plots.loss_plot = lambda reports, path: None  # drawing it takes longer than a small run
    sys.exit(main(words))
