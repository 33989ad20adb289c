"""Ranks that die or stall: each writes a heartbeat to the store of rank 0, and all end with the cause."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from datetime import timedelta

from fromnoise.training.launch import Launch
from fromnoise.utils.errors import one_line

EXIT_CODE = 2
"""Of a process that ends because of another rank."""
_TICK = 1.0  # seconds between two heartbeats
_DONE = "done"


class Watchdog:
    """Watches the other ranks from threads of its own, because a rank that waits for a dead one cannot do anything.

    Every rank writes its heartbeat and reads whether a rank has failed. Rank 0 watches the heartbeats of all, the
    others watch that of rank 0 and whether its store answers at all. Seconds are counted by ticks of this process, so
    that processes that were all stopped and continued do not accuse each other.
    """

    def __init__(self, launch: Launch, hosts: list[str], stall: float) -> None:
        """Start to watch.

        Args:
            launch: of this process.
            hosts: host of each rank.
            stall: seconds after which a rank without a heartbeat counts as dead.

        Raises:
            UserError: the store does not answer.
        """
        self._launch, self._hosts, self._ticks = launch, hosts, max(2, round(stall / _TICK))
        self._stall = stall
        self._store = launch.store(stall)
        self._store.set_timeout(timedelta(seconds=stall))
        self._watched = [r for r in range(launch.world) if r != launch.rank] if launch.rank == 0 else [0]
        self._beat = self._answered = 0  # ticks of this process, and the last one at which the store answered
        self._seen: dict[int, tuple[bytes, int]] = {}  # by rank: the last heartbeat, and the tick at which it was new
        self._closed, self._said = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._exchange, self._supervise)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Tell the others that this rank is done, and stop watching."""
        self._closed.set()
        for thread in self._threads:
            thread.join(5 * _TICK)
            if thread.is_alive():  # in the store's code, where the end of the interpreter would abort the process
                atexit.register(_leave)
                return
        with contextlib.suppress(RuntimeError):
            self._store.set(self._launch.key(f"beat/{self._launch.rank}"), _DONE)

    def fail(self, message: str) -> None:
        """Tell the others why this rank ends, and stop watching."""
        self._closed.set()
        self._report(message)
        self._linger()
        self.close()

    def _report(self, message: str) -> str:
        """Tell the others of a failure; the first one that any rank has reported, this or another."""
        try:
            return self._store.compare_set(self._launch.key("failure"), "", message).decode()
        except RuntimeError:
            return message

    def _linger(self) -> None:
        """Keep the store of rank 0 for a while, so that the others read why it ends."""
        if self._launch.rank == 0 and not self._launch.hosted:
            time.sleep(3 * _TICK)

    def also_said_by(self, rank: int, message: str) -> bool:
        """Stop watching, write this rank's error, and see whether another rank writes the same within two ticks."""
        self._closed.set()
        mine, key = self._launch.key(f"error/{self._launch.rank}"), self._launch.key(f"error/{rank}")
        with contextlib.suppress(RuntimeError):
            self._store.set(mine, message)
            end = time.monotonic() + 2 * _TICK * (rank != self._launch.rank)
            while time.monotonic() < end:
                if self._store.check([key]):
                    return self._store.get(key).decode() == message
                time.sleep(_TICK / 10)
        return False

    def wait_for_cause(self) -> None:
        """Wait for a rank's failure to be found, which ends this process.

        It returns where none is found in time, and at SIGTERM: torchrun ends the ranks of a host whose other rank died.
        """
        asked = threading.Event()
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
        asked.wait((self._ticks + 5) * _TICK)

    def name(self, rank: int) -> str:
        """A rank and its host, for messages."""
        return f"rank {rank} on {self._hosts[rank]}"

    # ---- the two threads

    def _exchange(self) -> None:
        """Write and read the store once a tick; blocked while rank 0 does not answer."""
        while not self._closed.wait(_TICK):
            try:
                self._store.set(self._launch.key(f"beat/{self._launch.rank}"), str(self._beat))
                failure = self._launch.key("failure")
                if self._store.check([failure]):
                    self._closed.wait(_TICK)  # this rank may be about to end for the same reason
                    self._end(self._store.get(failure).decode())
                for rank in self._watched:
                    self._look_at(rank)
            except RuntimeError:  # the store does not answer: see ``_supervise``
                continue
            self._answered = self._beat

    def _look_at(self, rank: int) -> None:
        key = self._launch.key(f"beat/{rank}")
        beat = self._store.get(key) if self._store.check([key]) else b""
        before, since = self._seen.get(rank, (None, self._beat))
        if beat == _DONE.encode() or beat != before:
            self._seen[rank] = (beat, self._beat)
        elif self._beat - since > self._ticks:
            silent = f"{self.name(rank)} has not answered for {self._stall:.0f} s"
            self._end(self._report(f"{silent}: it was killed or stopped, or its host is cut off"))

    def _supervise(self) -> None:
        """Count ticks, and end this process where the store has not answered for too long."""
        while not self._closed.wait(_TICK):
            self._beat += 1
            if self._beat - self._answered > self._ticks + 3:  # later than rank 0 finds a rank that is cut off
                silent = f"{self.name(0)} has not answered for {self._stall:.0f} s"
                self._end(f"{silent}: it was killed or stopped, or the link to its host is cut")

    def _end(self, cause: str) -> None:
        """End this process with the cause, which one rank of each host prints."""
        if self._closed.is_set() or not self._said.acquire(blocking=False):
            return
        if self._launch.local_rank == 0:
            print(one_line(f"fromnoise: {self._launch} ends: {cause}"), file=sys.stderr, flush=True)
        sys.stdout.flush()
        self._linger()
        os._exit(EXIT_CODE)


def _leave() -> None:
    """End the process without the end of the interpreter, because a thread cannot be ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_CODE)
