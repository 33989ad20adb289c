"""What the tests of the web interface share: tiny runs, and clients of the server."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import SMALL, fromnoise
from starlette.testclient import TestClient

from forked_python import python
from fromnoise.networks import kernels
from fromnoise.web.app import create_app, create_site
from fromnoise.web.settings import Settings


@pytest.fixture(scope="module", autouse=True)
def _forked():
    """Servers, computing processes and trainings are forked: each would import torch for some seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", python())
        yield


@pytest.fixture(autouse=True)
def _without_kernels():
    """The tests' process trains, and rounds by its C kernels; a command that samples does not have them."""
    kernels.disable()
    yield
    kernels.enable()


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """A folder with a run on the digits and one that is conditional on the class."""
    folder = tmp_path_factory.mktemp("web") / "runs"
    fromnoise("train", "digits", "--steps", "3", "--out", folder / "plain", *SMALL, "--train.previews", "1")
    labelled = ["--data.labels", "true", "--train.previews", "0"]
    fromnoise("train", "digits", "--steps", "3", "--out", folder / "labelled", *SMALL, *labelled)
    return folder


@pytest.fixture(scope="session")
def client_of() -> Iterator[Callable[..., TestClient]]:
    """``client_of(runs, token=...)``: a client of a server with these settings; all share the end of the session."""
    with contextlib.ExitStack() as stack:

        def opener(runs: Path, **settings: object) -> TestClient:
            app = create_app(create_site(Settings(runs, **settings)))
            address = "http://127.0.0.1:7860"
            return stack.enter_context(TestClient(app, base_url=address, raise_server_exceptions=False))

        yield opener


@pytest.fixture(scope="session")
def client(runs, client_of) -> TestClient:
    """A client of the two runs; its computing process is started once."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return client_of(runs)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """One browser for the tests of a module; while it is open no event loop of others can run."""
    from browsing import CHROMIUM, PATIENCE, sync_api

    with sync_api.sync_playwright() as playwright:
        sync_api.expect.set_options(timeout=PATIENCE)
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()
