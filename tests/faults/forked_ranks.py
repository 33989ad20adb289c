"""A launcher in place of torchrun whose ranks are forked from a process that has imported everything."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runs import Training
from sandbox import Child, Limits, Outcome, cli

LIMITS = Limits(seconds=600, cpu_seconds=600, memory_mb=8192)
GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL for ranks whose other rank has died, as in torchrun."""


class ForkedRanks:
    """A training by one process, or by several under a process that ends all when one dies; as ``Launched``."""

    def __init__(self, training: Training, place: Path, count: int, *, restarts: int = 0) -> None:
        """Start it; time-outs are the environment's.

        Args:
            training: its words are used.
            place: the folder.
            count: of processes.
            restarts: after a rank has died.
        """
        work = cli(*training.words)
        self._begin, self._alone = time.monotonic(), count == 1
        self._child = Child(work if count == 1 else lambda: launch(work, count, restarts), place, LIMITS)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.running()

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._begin

    def ranks(self) -> dict[int, int]:
        """The processes that train, by rank."""
        pid = self._child.pid
        if self._alone:
            return {0: pid} if self.running else {}
        return dict(enumerate(children(pid)))

    def wait(self, seconds: float) -> Outcome:
        """Wait for its end, with force after the seconds of ``LIMITS``."""
        outcome = self._child.wait()
        if outcome.late:
            for pid in children(self._child.pid):
                os.kill(pid, signal.SIGKILL)
        return outcome


def launch(work: Callable[[], int], count: int, restarts: int) -> int:
    """Fork ranks, and wait for them; all start again if one fails; the exit code is 0 if all of an attempt end with 0.

    Args:
        work: of each rank.
        count: of ranks.
        restarts: number of further attempts.
    """
    for attempt in range(restarts + 1):
        port = free_port()
        waiting = {_fork(work, rank, count, port, attempt) for rank in range(count)}
        failed, end = False, float("inf")
        while waiting:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                waiting.discard(pid)
                if status and not failed:
                    failed, end = True, time.monotonic() + GRACE
                    _send(waiting, signal.SIGTERM)
            elif time.monotonic() > end:
                _send(waiting, signal.SIGKILL)
                end = float("inf")
            else:
                time.sleep(0.02)
        if not failed:
            return 0
    return 1


def _fork(work: Callable[[], int], rank: int, count: int, port: int, attempt: int) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            names |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RESTART_COUNT": attempt, "ACCELERATE_USE_CPU": "true"}
            names["GLOO_SOCKET_IFNAME"] = "lo"
            os.environ |= {name: str(value) for name, value in names.items()}
            code = work()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def _send(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def children(pid: int) -> list[int]:
    """The child processes of a process, the oldest first."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
