"""Start the web server."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from fromnoise.utils.errors import UserError
from fromnoise.utils.hub import HubName, is_hub, open_repository
from fromnoise.web.app import Site, create_app, create_site
from fromnoise.web.folders import RUN_FILES
from fromnoise.web.settings import Settings, is_loopback

_SHORTEST_TOKEN = 16


def serve(
    runs: Path,
    data: Sequence[Path],
    host: str,
    port: int,
    token: str | None = None,
    demo: bool = False,
    public: str | None = None,
) -> int:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        runs: folder of runs, which is created by the first run; with ``demo`` one run: its folder, its
            model.safetensors or ``hub:owner/name``.
        data: folders whose data sets may be trained on.
        host: address to listen on.
        port: to listen on; 0 for a free one.
        token: that browsers must present; None for a random one where other machines can connect, and else none.
        demo: show one run, to sample only.
        public: name under which the demonstration is shown to everybody.

    Raises:
        UserError: a folder is missing, or the address is not free.
    """
    hub = str(HubName.parse(runs)) if demo and is_hub(runs) else None
    if demo:
        runs = _demo_folder(runs)
    if runs.exists() and not runs.is_dir():
        raise UserError(f"{runs} is a file: name the folder of the runs")
    is_run = any((runs / name).exists() for name in RUN_FILES)
    if demo and not is_run:
        raise UserError(f"--demo shows one run, and {runs} is none: name a run directory")
    if is_run and not demo:
        raise UserError(f"{runs} is a run: name the folder that it is in, or add --demo to show it alone")
    for folder in data:
        if not folder.is_dir():
            raise UserError(f"--data {folder} is not a folder: name one with images or data sets")
    if not 0 <= port < 65536:
        raise UserError(f"--port {port} is not a port: use 1024 to 65535, or 0 for a free one")
    if public is not None and not demo:
        raise UserError("--public shows a demonstration to everybody: add --demo, or leave it out")
    if public is not None and token is not None:
        raise UserError("--public asks for no token: leave --token out")
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise UserError(f"--token is too short: use at least {_SHORTEST_TOKEN} characters, or leave it out")
    listening = _listen(host, port)
    with listening:
        runs = runs.resolve()
        settings = Settings(
            runs=runs.parent if demo else runs,
            data=tuple(folder.resolve() for folder in data),
            host=host,
            port=listening.getsockname()[1],
            token=token or (None if public or is_loopback(host) else secrets.token_urlsafe(24)),
            demo=runs.name if demo else None,
            hub=hub,
            public=public.lower() if public else None,
        )
        _announce(settings)
        site = create_site(settings)
        config = uvicorn.Config(
            create_app(site),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=32 << 10,
            ws="none",
        )
        _Server(config, site).run(sockets=[listening])
    return 0


class _Server(uvicorn.Server):
    """A server that ends its endless answers when it is asked to end."""

    def __init__(self, config: uvicorn.Config, site: Site) -> None:
        super().__init__(config)
        self._site = site

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._site.closing = True
        super().handle_exit(sig, frame)


def _demo_folder(run: Path) -> Path:
    """The folder of the run that a demonstration shows; one of the hub is downloaded.

    Raises:
        UserError: it cannot be downloaded, or is no run of fromnoise.
    """
    if is_hub(run):
        repository = open_repository(run)
        if not repository.is_run:
            raise UserError(f"{repository.name} has no recipe.toml of fromnoise: name a run that fromnoise published")
        repository.fetch("model.safetensors")
        return repository.folder
    return run.parent if run.name == "model.safetensors" and run.is_file() else run


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the address is not this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()  # from now on browsers wait for the answer and are not refused
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from None
    return listening


def _announce(settings: Settings) -> None:
    query = f"?token={settings.token}" if settings.token else ""
    print(f"fromnoise web: {settings.address}{query}", flush=True)
    if settings.public:
        print(f"Everybody who can reach {settings.public} can sample from this run.", flush=True)
    elif not settings.loopback:
        what = (
            "sample from this run" if settings.demo else "start and stop trainings, read all runs and write into them"
        )
        print(f"Whoever has this address and its token can {what}; the connection is not encrypted.", flush=True)
