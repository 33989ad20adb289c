"""The application: routes, and what they share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fromnoise.utils.errors import UserError, one_line
from fromnoise.web.folders import Folders, NotFound
from fromnoise.web.guard import IMAGE_PATH, MAX_FORM, MAX_IMAGE, Guard, TooLarge, too_large
from fromnoise.web.processes import Processes
from fromnoise.web.requests import shown_path
from fromnoise.web.settings import Settings
from fromnoise.web.worker import Worker

_HERE = Path(__file__).parent
DEMO_JOBS = 8
"""Jobs of a demonstration that wait or are computed, at most."""


@dataclass
class Site:
    """What the handlers share; nothing in it is lost when the server ends.

    Attributes:
        settings: what is served.
        folders: where.
        processes: trainings that this server started.
        sampling: computes samples and edits.
        inspecting: computes what the form of a new run shows.
        choices: recipes and named data sets, after they were asked for.
        described: what the forms for a model offer, by run and state of its file, so that nobody waits for it twice.
        closing: the server is about to end.
    """

    settings: Settings
    folders: Folders
    processes: Processes
    sampling: Worker = field(default_factory=Worker)
    inspecting: Worker = field(default_factory=Worker)
    choices: dict[str, Any] | None = None
    described: dict[tuple[str, int, int], dict[str, Any]] = field(default_factory=dict)
    closing: bool = False

    @property
    def demo(self) -> bool:
        """Whether one run is shown, for sampling only."""
        return self.settings.demo is not None

    def shown(self, run: Path) -> str:
        """A run as a command names it: of a demonstration of the hub's, by its name there."""
        return self.settings.hub or shown_path(run)

    def check_free(self) -> None:
        """Check that not too many visitors of a demonstration wait for their samples.

        Raises:
            UserError: they do.
        """
        if self.demo and self.sampling.jobs >= DEMO_JOBS:
            raise UserError(f"{DEMO_JOBS} other visitors are waiting for their samples: try again in a minute")

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page from its template."""
        text = _TEMPLATES.get_template(template).render(demo=self.demo, **values)
        return Response(text, status, media_type="text/html")


_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def create_site(settings: Settings) -> Site:
    """What the handlers of a server share.

    Args:
        settings: what it serves.
    """
    return Site(settings, Folders(settings), Processes(settings.runs))


def create_app(site: Site) -> Guard:
    """The application, behind its guard.

    Args:
        site: what it serves.
    """
    from fromnoise.web import actions, pages, streams

    settings = site.settings

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await site.sampling.close()
        await site.inspecting.close()

    routes = [
        Mount("/static", StaticFiles(directory=_HERE / "static"), name="static"),
        Route("/run/{run}/sample", pages.sample),
        Route("/run/{run}/samples.{kind}", actions.save_samples),
        Route("/api/run/{run}/describe", actions.describe),
        Route("/api/run/{run}/sample", streams.sample, methods=["POST"]),
        Route("/api/run/{run}/forward", streams.forward, methods=["POST"]),
    ]
    if settings.demo is None:
        routes += [
            Route("/", pages.runs),
            Route("/new", pages.new),
            Route("/compare", pages.compare),
            Route("/run/{run}", pages.run),
            Route("/run/{run}/edit", pages.edit),
            Route("/run/{run}/clusters", pages.clusters),
            Route("/run/{run}/understand", pages.understand),
            Route("/run/{run}/report/{name}", pages.report),
            Route("/run/{run}/files/{path:path}", actions.file),
            Route("/api/events", streams.events),
            Route("/api/choices", actions.choices),
            Route("/api/inspect", streams.inspect, methods=["POST"]),
            Route("/api/start", actions.start, methods=["POST"]),
            Route("/api/run/{run}/curves", actions.curves),
            Route("/api/run/{run}/evaluations", actions.evaluations),
            Route("/api/run/{run}/doctor", streams.doctor, methods=["POST"]),
            Route("/api/run/{run}/rate", streams.rate, methods=["POST"]),
            Route("/api/run/{run}/stop", actions.stop, methods=["POST"]),
            Route("/api/run/{run}/evaluate", actions.evaluate, methods=["POST"]),
            Route("/api/run/{run}/continue", actions.continue_run, methods=["POST"]),
            Route("/api/run/{run}/edit", streams.edit, methods=["POST"]),
            Route("/api/run/{run}/nearest", streams.nearest, methods=["POST"]),
            Route("/api/run/{run}/keep", actions.keep_sample, methods=["POST"]),
            Route("/api/run/{run}/{kind}/images", actions.upload, methods=["POST"]),
        ]
    else:
        routes.append(Route("/", pages.demo))
    handlers = {NotFound: _not_found, UserError: _mistake, TooLarge: _too_large}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.state.site = site
    return Guard(app, settings)


def site_of(request: Request) -> Site:
    """What the handlers share."""
    return request.app.state.site


def _is_page(request: Request) -> bool:
    return not request.url.path.startswith("/api/") and request.method == "GET"


async def _not_found(request: Request, error: Exception) -> Response:
    message = one_line(str(error))
    if _is_page(request):
        return site_of(request).page("message.html", 404, title="Not found", message=message)
    return JSONResponse({"error": message}, 404)


async def _mistake(request: Request, error: Exception) -> Response:
    message = one_line(str(error))
    if _is_page(request):
        return site_of(request).page("message.html", 400, title="Not possible", message=message)
    return JSONResponse({"error": message}, 400)


async def _too_large(request: Request, error: Exception) -> Response:
    return too_large(MAX_IMAGE if request.url.path.endswith(IMAGE_PATH) else MAX_FORM)
