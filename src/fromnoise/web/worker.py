"""The computing process: started when it is needed, with the model in its memory.

Jobs are lines of JSON on its standard input; its answers are lines of JSON, each followed by as many bytes as its key
``bytes`` says. It ends when its standard input is closed, so it never outlives the server. A job that takes all memory
or crashes ends this process and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import AsyncGenerator
from typing import Any

from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import MAX_PIXELS

_WAITING = 64  # answers that are held for a reader
_LONGEST_LINE = 1 << 22
_PIXELS = 1 << 24  # of one uploaded image; the user's own limit is kept

Answer = tuple[dict[str, Any], bytes]


class Worker:
    """A computing process, which is started for its first job and again after a crash."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._jobs: dict[int, asyncio.Queue[Answer]] = {}
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()

    @property
    def jobs(self) -> int:
        """Number of jobs that wait or are computed."""
        return len(self._jobs)

    async def start(self) -> None:
        """Start the process, if it does not run."""
        async with self._starting:
            if self._process is not None and self._process.returncode is None:
                return
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fromnoise.web.compute"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LONGEST_LINE,
                start_new_session=True,  # Ctrl-C ends the server, which then closes the pipe
                env=_environment(),
            )
            self._reader = asyncio.create_task(self._read(self._process))

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    async def stream(self, op: str, **values: Any) -> AsyncGenerator[Answer]:
        """Run a job, answer by answer; the job is cancelled when the iterator is closed.

        Args:
            op: its name.
            values: its arguments, for JSON.

        Yields:
            Headers and the bytes that belong to them; the last header has ``event`` = ``end``.

        Raises:
            UserError: the job failed.
        """
        await self.start()
        number, queue = next(self._numbers), asyncio.Queue[Answer](_WAITING)
        self._jobs[number] = queue
        finished = False
        try:
            await self._send({"id": number, "op": op, "values": values})
            while not finished:
                header, content = await queue.get()
                finished = header["event"] in ("end", "error")
                if header["event"] == "error":
                    raise UserError(header["message"])
                yield header, content
        finally:
            del self._jobs[number]
            while not queue.empty():  # the reader may wait for a place
                queue.get_nowait()
            if not finished:
                with contextlib.suppress(UserError):
                    await self._send({"cancel": number})

    async def result(self, op: str, **values: Any) -> Answer:
        """The last answer of a job.

        Raises:
            UserError: the job failed.
        """
        last: Answer = ({}, b"")
        async with contextlib.aclosing(self.stream(op, **values)) as answers:
            async for answer in answers:
                last = answer
        return last

    async def _send(self, message: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise UserError("the computing process has ended")
        process.stdin.write(json.dumps(message).encode() + b"\n")
        with contextlib.suppress(ConnectionError):  # the reader notices its end
            await process.stdin.drain()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError, ValueError, ConnectionError):
            while line := await process.stdout.readline():
                header = json.loads(line)
                content = await process.stdout.readexactly(header.get("bytes", 0))
                queue = self._jobs.get(header.pop("id"))
                if queue is not None:
                    await queue.put((header, content))
        await process.wait()
        message = "the computing process ended, perhaps out of memory: ask for fewer or smaller samples"
        for queue in self._jobs.values():
            await queue.put(({"event": "error", "message": message}, b""))


def _environment() -> dict[str, str]:
    return {MAX_PIXELS: str(_PIXELS), **os.environ}
