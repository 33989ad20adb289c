"""The pages, rendered on the server; their modules then keep them up to date."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fromnoise.utils.reading import limits, read_bytes
from fromnoise.web.actions import run_of
from fromnoise.web.app import site_of
from fromnoise.web.documents import command_of
from fromnoise.web.folders import NotFound
from fromnoise.web.requests import EDITS, shell, shown_path
from fromnoise.web.run_state import last_lines, previews, run_state
from fromnoise.web.streams import states_of
from fromnoise.web.training_requests import continue_command

_REPORT_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
_SHOWN_FILES = ("samples.png", "reconstructions.png", "reverse.png", "forward.png")


async def runs(request: Request) -> Response:
    """The cards of all runs."""
    site = site_of(request)
    states = await asyncio.to_thread(states_of, site)
    command = shell(["web", shown_path(site.settings.runs)])
    return site.page("runs.html", title="Runs", folder=shown_path(site.settings.runs), command=command, **states)


async def new(request: Request) -> Response:
    """The form of a new run."""
    return site_of(request).page("new.html", title="New run", command=shell(["train", "digits"]))


async def run(request: Request) -> Response:
    """One run: its curves, previews, images and log."""
    site, path = run_of(request)
    log = last_lines(path / "log") or last_lines(site.processes.console(path.name))
    return site.page(
        "run.html",
        title=path.name,
        run=run_state(path).to_json(),
        previews=previews(path),
        files=[name for name in _SHOWN_FILES if (path / name).is_file()],
        reports=[("clusters" if p.parent == path else p.parent.name) for p in site.folders.reports(path)],
        clusters=(path / "map.csv").is_file(),
        log=log,
        command=shell(continue_command(path)),
    )


async def sample(request: Request) -> Response:
    """The form and the grid of samples."""
    site, path = run_of(request)
    others = [p.name for p in site.folders.runs() if (p / "model.safetensors").is_file()]
    command = shell(["sample", site.shown(path), "-n", "16", "--out", "samples.png"])
    title = site.settings.hub or path.name
    return site.page("sample.html", title=f"Sample from {title}", run=path.name, others=others, command=command)


async def demo(request: Request) -> Response:
    """The only page of a demonstration."""
    return RedirectResponse(f"/run/{site_of(request).settings.demo}/sample")


async def edit(request: Request) -> Response:
    """The form, the brush and the results of edits."""
    site, path = run_of(request)
    kept = sorted(p.name for p in (path / "edits").glob("image-*.png"))
    words = ["edit", "inpaint", shown_path(path), "--image", "photo.png", "--mask", "mask.png", "--out", "edited.png"]
    return site.page(
        "edit.html", title=f"Edit with {path.name}", run=path.name, kept=kept, kinds=EDITS, command=shell(words)
    )


async def compare(request: Request) -> Response:
    """Several runs: their curves over each other, and the same seed side by side."""
    site = site_of(request)
    names = [p.name for p in site.folders.runs()]
    chosen = [name for name in dict.fromkeys(request.query_params.getlist("run")) if name in names]
    command = shell(["evaluate", *(shown_path(site.settings.runs / name) for name in chosen or names[:2])])
    return site.page("compare.html", title="Compare", names=names, chosen=chosen, command=command)


async def clusters(request: Request) -> Response:
    """The map of a clustering."""
    site, path = run_of(request)
    if not (path / "map.csv").is_file():
        raise NotFound(f"{path.name} has no map of clusters")
    command = command_of(path) or shell(["cluster", "SPEC", "-q", "Q", "--out", shown_path(path)])
    return site.page("clusters.html", title=f"Clusters of {path.name}", run=path.name, command=command)


async def understand(request: Request) -> Response:
    """Schedule, bits by step, and quality against cost."""
    site, path = run_of(request)
    command = shell(["show", "rate", shown_path(path), "--out", "rate.png"])
    return site.page("understand.html", title=f"What {path.name} has learned", run=path.name, command=command)


async def report(request: Request) -> Response:
    """The HTML page of an evaluation, as it was written; its scripts, if it had any, do not run."""
    site, path = run_of(request)
    content = await asyncio.to_thread(
        read_bytes, site.folders.report(path, request.path_params["name"]), limits().text_bytes
    )
    return Response(content, media_type="text/html", headers={"content-security-policy": _REPORT_POLICY})
