"""The loop of the computing process: jobs from standard input, answers to standard output."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from typing import Any

from fromnoise.utils.errors import UserError, one_line


class Cancelled(Exception):
    """The reader of a job has gone."""


class Channel:
    """Where a job sends its answers."""

    def __init__(self, number: int, output: int, cancelled: set[int]) -> None:
        """Answer a job.

        Args:
            number: of the job.
            output: file descriptor.
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
        rest = memoryview(json.dumps(header).encode() + b"\n" + content)
        while rest:
            rest = rest[os.write(self._output, rest) :]


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
    output = os.dup(1)
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
