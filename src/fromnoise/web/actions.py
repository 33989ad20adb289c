"""Actions of the pages, besides streams: answers in JSON, and files."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic
from fromnoise.utils.reading import limits, read_bytes
from fromnoise.web import report_lines
from fromnoise.web.app import Site, site_of
from fromnoise.web.documents import evaluated
from fromnoise.web.fields import Fields
from fromnoise.web.folders import FILE_TYPES, NotFound
from fromnoise.web.requests import SamplingRequest, shell, shown_path
from fromnoise.web.run_state import previews
from fromnoise.web.training_requests import NewRunRequest, continue_command

UPLOADS = "edits"
"""Folder of a run for the images and masks that are edited."""


async def fields_of(request: Request) -> Fields:
    """The JSON object of a request.

    Raises:
        UserError: it is something else.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UserError("the request must be JSON")
    try:
        return Fields(json.loads(await request.body()))
    except (ValueError, RecursionError):
        raise UserError("the request is not valid JSON") from None


def run_of(request: Request) -> tuple[Site, Path]:
    """The site and the folder of the run that a path names.

    Raises:
        NotFound: there is none.
    """
    site = site_of(request)
    return site, site.folders.run(request.path_params["run"])


async def describe(request: Request) -> Response:
    """What the forms for a model offer."""
    site, run = run_of(request)
    model = run / "model.safetensors"
    status = model.stat() if model.is_file() else None
    key = (run.name, status.st_mtime_ns, status.st_size) if status is not None else None
    if key is None or key not in site.described:
        header, _ = await site.sampling.result("describe", run=str(run))
        if key is None:
            return JSONResponse(header)
        for old in [k for k in site.described if k[0] == run.name]:
            del site.described[old]
        site.described[key] = header
    return JSONResponse(site.described[key])


async def choices(request: Request) -> Response:
    """Recipes, data sets, and the names that are taken."""
    site = site_of(request)
    if site.choices is None:
        site.choices, _ = await site.inspecting.result("choices")
    folders = await asyncio.to_thread(site.folders.data_sets)
    runs = [path.name for path in site.folders.runs()]
    return JSONResponse({**site.choices, "folders": list(folders), "runs": runs})


async def curves(request: Request) -> Response:
    """The curves of a run, and the names of its previews."""
    _, run = run_of(request)
    found = await asyncio.to_thread(report_lines.curves, run / "reports.jsonl")
    return JSONResponse(found | {"previews": previews(run)})


async def evaluations(request: Request) -> Response:
    """Frechet distance and cost of each source of each evaluation in a run."""
    site, run = run_of(request)
    paths = site.folders.reports(run)
    return JSONResponse(await asyncio.to_thread(lambda: [e for path in paths for e in evaluated(path.parent)]))


async def start(request: Request) -> Response:
    """Start a training or a clustering."""
    site, fields = site_of(request), await fields_of(request)
    wanted = NewRunRequest.parse(fields, site.folders.data_sets())
    out = site.folders.new_run(fields.text("name"))
    if out.exists():
        raise UserError(f"there is a run {out.name} already: choose another name, or continue it")
    words = wanted.command(out)
    await asyncio.to_thread(site.processes.train, out.name, words)
    return JSONResponse({"run": out.name, "command": shell(words)})


async def stop(request: Request) -> Response:
    """Ask a training to stop."""
    site, run = run_of(request)
    site.processes.stop(run.name)
    return JSONResponse({"run": run.name})


async def continue_run(request: Request) -> Response:
    """Continue a training by its own recipe."""
    site, run = run_of(request)
    words = continue_command(run)
    await asyncio.to_thread(site.processes.train, run.name, words)
    return JSONResponse({"run": run.name, "command": shell(words)})


async def evaluate(request: Request) -> Response:
    """Evaluate a run: its report appears in its folder."""
    site, run = run_of(request)
    count = (await fields_of(request)).integer("n", 500, 10, 100_000)
    words = ["evaluate", shown_path(run), "-n", str(count)]
    site.processes.evaluate(run.name, words)
    return JSONResponse({"run": run.name, "command": shell(words)})


async def save_samples(request: Request) -> Response:
    """Samples as a file; the query has the fields of the form."""
    site, run = run_of(request)
    kind = request.path_params["kind"]
    types = {"png": FILE_TYPES[".png"], "gif": FILE_TYPES[".gif"], "npz": FILE_TYPES[".npz"]}
    if kind not in types:
        raise NotFound("samples are saved as png, npz or gif")
    site.check_free()
    wanted = SamplingRequest.parse(Fields(dict(request.query_params)), site.demo)
    _, content = await site.sampling.result("save", run=str(run), sampling=wanted.to_json(), kind=kind)
    name = f"samples-{wanted.seed}.{kind}"
    return Response(content, media_type=types[kind], headers={"content-disposition": f'attachment; filename="{name}"'})


async def keep_sample(request: Request) -> Response:
    """Write a sample into the run, to edit it."""
    site, run = run_of(request)
    fields = await fields_of(request)
    wanted, index = SamplingRequest.parse(fields), fields.integer("index", 0, 0, 10_000)
    header, _ = await site.sampling.result("store_sample", run=str(run), sampling=wanted.to_json(), index=index)
    return JSONResponse(header)


async def upload(request: Request) -> Response:
    """Write an uploaded image or mask into the run, decoded and encoded again."""
    site, run = run_of(request)
    values: dict[str, Any] = {"run": str(run)}
    fields = Fields(dict(request.query_params))
    kind = request.path_params["kind"]
    if kind == "mask":
        values |= {key: fields.integer(key, 1, 1, 1024) for key in ("height", "width")}
    elif kind == "image":
        values["fit"] = fields.flag("fit")
    else:
        raise NotFound("images and masks are uploaded")
    content = await request.body()
    if not content:
        raise UserError("the image is empty")
    path = run / UPLOADS / f".upload-{secrets.token_hex(8)}.tmp"
    try:
        await asyncio.to_thread(write_atomic, path, content)
        header, _ = await site.sampling.result(f"store_{kind}", path=str(path), **values)
    except UserError as error:
        raise UserError(str(error).replace(str(path), "the upload")) from None
    finally:
        path.unlink(missing_ok=True)
    return JSONResponse(header)


async def file(request: Request) -> Response:
    """A file of a run."""
    site, run = run_of(request)
    path = site.folders.file(run, request.path_params["path"])
    content = await asyncio.to_thread(read_bytes, path, limits().text_bytes)
    kind = FILE_TYPES[path.suffix.lower()]
    cached = "no-cache" if path.suffix.lower() in (".png", ".gif") else "no-store"
    return Response(content, media_type=kind, headers={"cache-control": cached})
