"""Answers that grow: samples step by step, checks of data, and the state of all runs.

A stream of the computing process is passed on as it comes: lines of JSON, each followed by as many bytes as its key
``bytes`` says. Nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fromnoise.utils.errors import UserError, one_line
from fromnoise.web.actions import fields_of, run_of
from fromnoise.web.app import Site, site_of
from fromnoise.web.requests import EditRequest, SamplingRequest, sample_command, shell, shown_path
from fromnoise.web.run_state import run_state
from fromnoise.web.training_requests import NewRunRequest
from fromnoise.web.worker import Answer, Worker

INTERVAL = 1.0
"""Seconds between two readings of the runs."""
_SILENT = 15  # readings without a change after which a comment keeps the connection open


def _stream(worker: Worker, op: str, command: str, values: dict[str, Any]) -> StreamingResponse:
    """Pass on the answers of a job, after a first one with the command line that does the same."""

    async def body() -> AsyncIterator[bytes]:
        yield _encoded(({"event": "command", "command": command, "bytes": 0}, b""))
        try:
            async with contextlib.aclosing(worker.stream(op, **values)) as answers:
                async for answer in answers:
                    yield _encoded(answer)
        except UserError as error:
            yield _encoded(({"event": "error", "message": one_line(str(error)), "bytes": 0}, b""))

    return StreamingResponse(body(), media_type="application/octet-stream")


def _encoded(answer: Answer) -> bytes:
    header, content = answer
    return json.dumps(header).encode() + b"\n" + content


async def sample(request: Request) -> Response:
    """Sample, step by step."""
    site, run = run_of(request)
    site.check_free()
    fields = await fields_of(request)
    wanted, place = SamplingRequest.parse(fields, site.demo), fields.integer("place", 0, 0, 100)
    command = shell(sample_command(site.shown(run), wanted, f"samples-{place + 1}.png" if place else "samples.png"))
    return _stream(site.sampling, "sample", command, {"run": str(run), "sampling": wanted.to_json()})


async def forward(request: Request) -> Response:
    """Noise samples again, level by level."""
    site, run = run_of(request)
    site.check_free()
    wanted = SamplingRequest.parse(await fields_of(request), site.demo)
    command = shell(sample_command(site.shown(run), wanted))
    return _stream(site.sampling, "forward", command, {"run": str(run), "sampling": wanted.to_json()})


async def nearest(request: Request) -> Response:
    """The training images that are nearest to some samples."""
    site, run = run_of(request)
    wanted = SamplingRequest.parse(await fields_of(request), site.demo)
    command = shell(["evaluate", shown_path(run)])
    return _stream(site.sampling, "nearest", command, {"run": str(run), "sampling": wanted.to_json()})


async def edit(request: Request) -> Response:
    """Edit an image, step by step."""
    site, run = run_of(request)
    wanted = EditRequest.parse(await fields_of(request))
    for name in wanted.files():
        site.folders.file(run, name)
    return _stream(site.sampling, "edit", shell(wanted.command(run)), {"run": str(run), "request": wanted.to_json()})


async def rate(request: Request) -> Response:
    """Bits by reverse step, rate and distortion of some held-out images."""
    site, run = run_of(request)
    count = (await fields_of(request)).integer("n", 16, 2, 64)
    command = shell(["show", "rate", shown_path(run), "-n", str(count), "--out", "rate.png"])
    return _stream(site.sampling, "rate", command, {"run": str(run), "count": count})


async def doctor(request: Request) -> Response:
    """Problems of a run and of its data."""
    site, run = run_of(request)
    command = shell(["doctor", shown_path(run), "-n", "0"])
    return _stream(site.inspecting, "doctor", command, {"run": str(run)})


async def inspect(request: Request) -> Response:
    """What a training would be."""
    site = site_of(request)
    fields = await fields_of(request)
    wanted = NewRunRequest.parse(fields, site.folders.data_sets())
    name = fields.text("name") or wanted.recipe
    command = shell(wanted.command(site.folders.new_run(name)))
    values = {"task": wanted.task, "recipe": wanted.recipe, "overrides": wanted.overrides()}
    return _stream(site.inspecting, "inspect", command, values)


async def events(request: Request) -> Response:
    """The states of all runs, whenever one has changed, as server-sent events."""
    site = site_of(request)

    async def body() -> AsyncIterator[bytes]:
        last, silent = "", 0
        while not site.closing:
            states = json.dumps(await asyncio.to_thread(states_of, site))
            if states != last:
                last, silent = states, 0
                yield f"data: {states}\n\n".encode()
            elif (silent := silent + 1) % _SILENT == 0:
                yield b": still here\n\n"
            await asyncio.sleep(INTERVAL)

    return StreamingResponse(body(), media_type="text/event-stream")


def states_of(site: Site) -> dict[str, Any]:
    """The states of all runs, which are about to start or evaluated, and why started commands failed."""
    return {
        "runs": [run_state(path).to_json() for path in site.folders.runs()],
        "starting": site.processes.starting(),
        "evaluating": site.processes.evaluating(),
        "failures": site.processes.failures(),
    }
