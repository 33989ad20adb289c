"""Ranks as forked processes on one host, and what they printed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fromnoise.training.launch import Launch
from fromnoise.utils.errors import UserError


def free_port() -> int:
    """A port at which nobody listens."""
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def rank_variables(rank: int, world: int, port: int) -> dict[str, int | str]:
    """The variables that a launcher sets for a rank of one host."""
    named = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_PORT": port}
    return named | {"MASTER_ADDR": "127.0.0.1"}


def launch(rank: int, world: int, port: int, address: str = "127.0.0.1") -> Launch:
    """Rank ``rank`` as the only one of a host ``host<rank>``."""
    return Launch(rank, world, 0, address, port, False, 0, f"host{rank}")


@dataclass
class Rank:
    """A forked rank.

    Attributes:
        pid: of the process.
        out: file of its standard output and error.
    """

    pid: int
    out: Path
    code: int | None = None

    def wait(self, seconds: float) -> int:
        """Wait for its end; the exit code, negative for a signal.

        Raises:
            AssertionError: it is running after so many seconds; it is killed then.
        """
        end = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                self.kill()
                raise AssertionError(f"rank runs after {seconds} s: {self.text}")
            else:
                time.sleep(0.02)
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        if self.code is None:
            os.kill(self.pid, number)

    @property
    def text(self) -> str:
        """What it printed."""
        return self.out.read_text()

    def wait_for(self, word: str, seconds: float = 20.0) -> None:
        """Wait until it has printed a word."""
        end = time.monotonic() + seconds
        while word not in self.text:
            assert time.monotonic() < end, self.text
            time.sleep(0.02)


class Ranks(contextlib.AbstractContextManager):
    """Starts ranks; none survives the block."""

    def __init__(self, folder: Path) -> None:
        """Write their output to a folder."""
        self._folder, self._ranks = folder, []

    def start(self, work: Callable[[], object], environment: dict[str, str] | None = None) -> Rank:
        """Fork a process that works, prints a UserError as the command line does, and exits."""
        out = self._folder / f"rank{len(self._ranks)}.txt"
        out.touch()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                handle = os.open(out, os.O_WRONLY | os.O_APPEND)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)
                os.environ |= environment or {}
                try:
                    work()
                    code = 0
                except UserError as error:
                    print(f"fromnoise: {error}")
                    code = 2
                except SystemExit as error:
                    code = int(error.code or 0)
                except BaseException:
                    traceback.print_exc(file=sys.stdout)
            finally:
                sys.stdout.flush()
                os._exit(code)
        self._ranks.append(Rank(pid, out))
        return self._ranks[-1]

    def __exit__(self, *error: object) -> None:
        for rank in self._ranks:
            if rank.code is None:
                rank.kill(signal.SIGCONT)
                rank.kill()
                os.waitpid(rank.pid, 0)
