"""The loop of the computing process: jobs from standard input, answers to standard output."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from typing import Any

from fromnoise.utils.environment import set_environment
from fromnoise.utils.errors import UserError, one_line

_WAITING = 8  # answers that were not written yet


class Cancelled(Exception):
    """The reader of a job has gone."""


class Output:
    """Writes answers in a thread of its own, so that a job does not wait for the server to read them."""

    def __init__(self, descriptor: int) -> None:
        """Write to a file descriptor."""
        self._descriptor = descriptor
        self._waiting: queue.Queue[bytes] = queue.Queue(_WAITING)
        threading.Thread(target=self._write, daemon=True).start()

    def put(self, answer: bytes) -> None:
        """Write an answer after those before it; waits if many are not read yet."""
        self._waiting.put(answer)

    def _write(self) -> None:
        while True:
            rest = memoryview(self._waiting.get())
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]


class Channel:
    """Where a job sends its answers."""

    def __init__(self, number: int, output: Output, cancelled: set[int]) -> None:
        """Answer a job.

        Args:
            number: of the job.
            output: of the process.
            cancelled: numbers of cancelled jobs; another thread adds to it.
        """
        self.number, self._output, self._cancelled = number, output, cancelled

    def send(self, event: str, content: bytes = b"", **values: Any) -> None:
        """Send an answer.

        Raises:
            Cancelled: nobody reads it.
        """
        if self.number in self._cancelled and event not in ("end", "error"):
            raise Cancelled
        header = {"id": self.number, "event": event, "bytes": len(content), **values}
        self._output.put(json.dumps(header).encode() + b"\n" + content)


def _listen(jobs: queue.Queue[dict[str, Any]], cancelled: set[int]) -> None:
    """Read jobs; when the server has gone, end the process at once."""
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "cancel" in message:
            cancelled.add(message["cancel"])
        else:
            jobs.put(message)
    os._exit(0)


def main() -> None:
    """Work on one job after the other."""
    set_environment()  # as the command line, before torch is imported
    output = Output(os.dup(1))
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    cancelled: set[int] = set()
    threading.Thread(target=_listen, args=(jobs, cancelled), daemon=True).start()
    from fromnoise.web.compute.jobs import JOBS

    while True:
        job = jobs.get()
        channel = Channel(job["id"], output, cancelled)
        try:
            JOBS[job["op"]](channel.send, **job["values"])
        except Cancelled:
            channel.send("end")
        except UserError as error:
            channel.send("error", message=one_line(str(error)))
        except Exception as error:  # of one job: the process goes on
            import traceback

            traceback.print_exc()
            channel.send("error", message=one_line(f"{type(error).__name__}: {error}"))
        cancelled.discard(job["id"])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
