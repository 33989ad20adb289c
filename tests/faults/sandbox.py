"""Run the command line in forked processes with limits of time, memory and file size.

The parent has imported everything, so that a case costs a fork instead of a start of Python. Linux only.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GRACE = 15.0
"""Seconds after an interrupt within which a command must end."""


@dataclass(frozen=True)
class Limits:
    """Limits of one command.

    Attributes:
        seconds: wall-clock time, wide because other processes may use the cores.
        cpu_seconds: processor time, after which the system ends the process.
        memory_mb: address space beyond that of the parent.
        file_bytes: size of each written file; None for no limit. Writing more raises OSError, as on a full disk.
        interrupt: at the end of the time send SIGINT, as a user would, and allow ``GRACE`` seconds more.
    """

    seconds: float = 60.0
    cpu_seconds: int = 30
    memory_mb: int = 2048
    file_bytes: int | None = None
    interrupt: bool = False


DEFAULT = Limits()


@dataclass(frozen=True)
class Outcome:
    """What a command left.

    Attributes:
        code: exit code; negative for the signal that ended it.
        out: standard output.
        err: standard error.
        seconds: wall-clock time.
        cpu: processor time in seconds.
        memory_mb: growth of the resident memory over that of the parent.
        late: whether it had to be interrupted or killed.
    """

    code: int
    out: str
    err: str
    seconds: float
    cpu: float
    memory_mb: float
    late: bool

    @property
    def message(self) -> str:
        """The last line of the standard error."""
        lines = self.err.rstrip().splitlines()
        return lines[-1] if lines else ""


def preload() -> None:
    """Import what the verbs import when they run.

    The plot of the losses becomes an empty image, because drawing it takes longer than the rest of a small run; it is
    written as before. Runs make all measurements of their recipes, however long they take, so that they are comparable.
    """
    import pkgutil

    import matplotlib.figure  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch
    import torch._dynamo  # imported by torch's optimizers

    import fromnoise

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(fromnoise.__path__, "fromnoise."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # needs an extra that is not installed
                importlib.import_module(module.name)
    from PIL import Image

    from fromnoise.reporting import image_io, plots
    from fromnoise.training import measurement_plan

    measurement_plan.MIN_SECONDS = 1e9
    plots.loss_plot = lambda reports, path: image_io.save(Image.new("L", (8, 8)), path)
    gc.collect()
    gc.freeze()  # a collection in a child would copy all memory of the parent


def warm(words: tuple[object, ...], folder: Path) -> None:
    """Run a command once, and import here what it imported there.

    Raises:
        AssertionError: it fails.
    """
    listing = folder.with_name(f"{folder.name}.modules")

    def action() -> int:
        code = cli(*words)()
        listing.write_text("\n".join(sys.modules))
        return code

    outcome = Child(action, folder, Limits(seconds=300)).wait()
    assert outcome.code == 0, outcome.err
    for name in listing.read_text().splitlines():
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()


def cli(*words: object) -> Callable[[], int]:
    """``fromnoise WORDS`` as an action for ``Child``."""

    def action() -> int:
        from fromnoise.cli import main

        return main([str(w) for w in words])

    return action


class Child:
    """A forked process that runs an action in a folder; its output goes to files beside the folder."""

    def __init__(
        self,
        action: Callable[[], int | None],
        folder: Path,
        limits: Limits = DEFAULT,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """Start it.

        Args:
            action: returns the exit code.
            folder: its working directory.
            limits: of its resources.
            prepare: called in the process before the action, outside its limits.
        """
        self.limits, self._since = limits, time.monotonic()
        self._out, self._err = (folder.with_name(f"{folder.name}.{name}") for name in ("out", "err"))
        self._resident = _resident_mb()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = self._run(action, folder, prepare)
            finally:
                os._exit(code)
        self._ended: tuple[int, float, float] | None = None
        self._late = False

    def _run(self, action: Callable[[], int | None], folder: Path, prepare: Callable[[], object] | None) -> int:
        for path, descriptor in ((self._out, 1), (self._err, 2)):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, descriptor)
            os.close(handle)
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.chdir(folder)
        code = 1
        try:
            if prepare is not None:
                prepare()
            self._limit()
            code = action() or 0
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else int(e.code is not None)
        except BaseException:
            traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        return code

    def _limit(self) -> None:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = size + self.limits.memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (self.limits.cpu_seconds, self.limits.cpu_seconds + 5))
        if self.limits.file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python sets it; writes then raise OSError
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limits.file_bytes, resource.RLIM_INFINITY))

    # ---- from outside

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._ended is None and not self._reap(0)

    def send(self, number: int) -> None:
        """Send a signal to it, if it has not ended."""
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _reap(self, seconds: float) -> bool:
        """Wait for its end; False if it runs on."""
        if self._ended is None:
            handle = os.pidfd_open(self.pid)
            try:
                if select.select([handle], [], [], max(0.0, seconds))[0]:
                    _, status, usage = os.wait4(self.pid, 0)
                    growth = usage.ru_maxrss / 1024 - self._resident
                    self._spent = time.monotonic() - self._since
                    self._ended = (os.waitstatus_to_exitcode(status), growth, usage.ru_utime + usage.ru_stime)
            finally:
                os.close(handle)
        return self._ended is not None

    def wait(self) -> Outcome:
        """Wait for its end, with force where the time is over; what it left."""
        if not self._reap(self._since + self.limits.seconds - time.monotonic()):
            self._late = True
            if self.limits.interrupt:
                self.send(signal.SIGINT)
                self._reap(GRACE)
        if not self._reap(0):
            self.send(signal.SIGKILL)
            self._reap(60)
        assert self._ended is not None
        code, growth, cpu = self._ended
        texts = []
        for path in (self._out, self._err):
            texts.append(path.read_text(encoding="utf-8", errors="replace") if path.exists() else "")
            path.unlink(missing_ok=True)
        return Outcome(code, texts[0], texts[1], self._spent, cpu, max(0.0, growth), self._late)


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def run(words: tuple[object, ...], folder: Path, limits: Limits = DEFAULT) -> Outcome:
    """Run ``fromnoise WORDS`` in a folder and wait for its end."""
    return Child(cli(*words), folder, limits).wait()


EXIT_CODES = (0, 2, 130, 143)
LONGEST_MESSAGE = 1000


def violations(outcome: Outcome, limits: Limits, names: tuple[str, ...] = ()) -> list[str]:
    """What a command did that no command may do.

    Args:
        outcome: of the command.
        limits: under which it ran.
        names: if it exits with 2, its message must hold one of these; none: any message.
    """
    found = []
    if outcome.late and not (limits.interrupt and outcome.code in EXIT_CODES):
        found.append(f"ran longer than {limits.seconds:g} s")
    elif outcome.code < 0:
        found.append(f"died of {signal.Signals(-outcome.code).name}")
    elif outcome.code not in EXIT_CODES:
        found.append(f"exit code {outcome.code}")
    if "Traceback" in outcome.err:
        found.append("traceback")
    if outcome.code == 2:
        message = outcome.message
        if not message.startswith("fromnoise"):
            found.append("exit code 2 without a message")
        elif len(message) > LONGEST_MESSAGE:
            found.append(f"a message of {len(message)} characters")
        elif names and not any(name in message for name in names):
            found.append("the message names no file")
    if "Warning:" in outcome.err:
        found.append("a warning of Python")
    return found
