"""The verb, the streams of the server, and its computing process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from serving import INTERPRETER, ORIGIN, answers, fromnoise
from starlette.testclient import TestClient

from fromnoise.cli import main
from fromnoise.utils.errors import UserError
from fromnoise.web import serve, streams
from fromnoise.web.app import create_app, create_site
from fromnoise.web.fields import Fields
from fromnoise.web.folders import Folders
from fromnoise.web.settings import Settings, is_loopback
from fromnoise.web.training_requests import NewRunRequest
from fromnoise.web.worker import Worker


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nothing"], "is not a folder"),
        (["file"], "is a file"),
        (["runs/plain"], "add --demo"),
        (["runs", "--demo"], "name a run directory"),
        (["--port", "70000"], "not a port"),
        (["--token", "short"], "at least 16"),
        (["--host", "203.0.113.1"], "choose another --port"),
        (["--public", "me.example"], "add --demo"),
        (["runs/plain", "--demo", "--public", "me.example", "--token", "t" * 20], "leave --token out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(words, message, tmp_path, monkeypatch, capsys):
    """One line that names the mistake and the remedy."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "plain").mkdir(parents=True)
    (tmp_path / "runs" / "plain" / "recipe.toml").touch()
    (tmp_path / "file").touch()
    assert main(["web", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fromnoise: ") and message in error and error.count("\n") == 1


def test_demonstration_of_a_run_of_the_hub(tmp_path, monkeypatch):
    """It is downloaded, and its commands name it as the hub does, not a folder of this machine."""
    (tmp_path / "1a2b").mkdir()
    (tmp_path / "1a2b" / "recipe.toml").touch()
    fetched, sites = [], []
    repository = SimpleNamespace(is_run=True, folder=tmp_path / "1a2b", fetch=fetched.append)
    monkeypatch.setattr(serve, "open_repository", lambda source: repository)
    monkeypatch.setattr(serve._Server, "run", lambda server, sockets: sites.append(server._site))
    assert main(["web", "hub:owner/digits", "--demo", "--port", "0"]) == 0
    assert fetched == ["model.safetensors"] and sites[0].settings.demo == "1a2b"
    page = TestClient(create_app(sites[0]), base_url=sites[0].settings.address).get("/").text
    assert "fromnoise sample hub:owner/digits -n 16" in page and str(tmp_path) not in page


def test_taken_port(tmp_path, monkeypatch, capsys):
    """Is named."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["web", "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["starlette", "uvicorn", "jinja2"])
def test_missing_package(name, monkeypatch, capsys):
    """The package works without the extra; the verb says how to install it."""
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["web"]) == 2
    assert "pip install 'fromnoise[web]'" in capsys.readouterr().err


def test_server_imports_no_torch():
    """So that it starts at once and stays small."""
    code = "import sys, fromnoise.web.serve, fromnoise.web.pages; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([INTERPRETER, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback(host, local):
    """What needs no token."""
    assert is_loopback(host) == local
    assert not is_loopback("example.com")


def test_events_are_sent_when_something_changes(tmp_path, monkeypatch):
    """The states of all runs at once, then only changes; the stream ends with the server."""
    monkeypatch.setattr(streams, "INTERVAL", 0.01)
    site = create_site(Settings(tmp_path / "runs"))
    request = type("Request", (), {"app": type("App", (), {"state": type("State", (), {"site": site})})})

    async def listen() -> list[dict[str, object]]:
        response = await streams.events(request)  # pyright: ignore[reportArgumentType]
        found = []
        async for block in response.body_iterator:  # pyright: ignore[reportAttributeAccessIssue]
            if block.startswith(b":"):
                site.closing = True
                continue
            found.append(json.loads(block.removeprefix(b"data: ")))
            if len(found) == 1:
                run = tmp_path / "runs" / "elsewhere"
                run.mkdir(parents=True)
                (run / "recipe.toml").write_text('name = "x"')
        return found

    first, second = asyncio.run(listen())
    assert first["runs"] == []
    assert [run["name"] for run in second["runs"]] == ["elsewhere"]  # pyright: ignore


@pytest.mark.slow
def test_computing_process_is_cancelled_and_replaced(runs):
    """A reader that goes away ends its job; a process that dies is an error of its job and is started again."""
    sampling = {"count": 256, "seed": 0, "sampler": None, "steps": 900, "label": None, "guidance": None, "size": None}
    sampling["options"] = {}

    async def work() -> None:
        worker = Worker()
        try:
            async with contextlib.aclosing(
                worker.stream("sample", run=str(runs / "plain"), sampling=sampling)
            ) as answers:
                kinds = [(await anext(answers))[0]["event"] for _ in range(3)]
            assert kinds == ["begin", "step", "step"]
            header, _ = await asyncio.wait_for(worker.result("describe", run=str(runs / "plain")), 20)
            assert header["shape"] == [1, 8, 8]
            process = worker._process
            assert process is not None
            long = asyncio.create_task(worker.result("sample", run=str(runs / "plain"), sampling=sampling))
            await asyncio.sleep(0.5)
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(UserError, match="out of memory"):
                await long
            assert (await worker.result("describe", run=str(runs / "plain")))[0]["event"] == "end"
            with pytest.raises(UserError):
                await worker.result("describe", run=str(runs / "nothing"))
        finally:
            await worker.close()

    asyncio.run(work())


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of photos in two classes, with the same as a .zip and something else beside it."""
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / "pets" / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / "pets" / name / f"{i}.png")
    shutil.make_archive(str(tmp_path / "photos" / "pets"), "zip", tmp_path / "photos" / "pets")
    (tmp_path / "photos" / "notes.txt").touch()
    (tmp_path / "photos" / "out").symlink_to("/etc")
    return tmp_path / "photos"


def test_data_sets_are_those_of_the_named_folders(photos, tmp_path):
    """By name: a folder and what is in it, not what links lead to; each becomes the path of the command."""
    found = Folders(Settings(tmp_path / "runs", (photos,))).data_sets()
    assert list(found) == ["photos", "photos/pets", "photos/pets.zip"]
    fields = Fields({"recipe": "images", "data": "photos/pets.zip"})
    words = NewRunRequest.parse(fields, found).command(tmp_path / "runs" / "a")
    assert words[:4] == ["train", "images", "--data", str(photos / "pets.zip")]
    for other in ("photos/notes.txt", "photos/out", str(photos), "photos/pets/cats"):
        with pytest.raises(UserError, match="--data"):
            NewRunRequest.parse(Fields({"recipe": "images", "data": other}), found)


@pytest.mark.slow
def test_inspection_of_a_zip(photos, tmp_path, client_of):
    """Its images as the model will see them, its classes, and problems with their remedies."""
    client = client_of(tmp_path / "runs", data=(photos,))
    assert client.get("/api/choices").json()["folders"] == ["photos", "photos/pets", "photos/pets.zip"]
    form = {"recipe": "images", "data": "photos/pets.zip", "labels": True, "budget": "steps", "amount": 10}
    content = client.post("/api/inspect", json=form, headers=ORIGIN).content
    found = {header["event"]: header for header, _ in answers(content)}
    assert "error" not in found, found
    assert found["data"]["classes"] == ["cats", "dogs"] and found["data"]["shape"][0] == 3
    assert any("duplicate" in finding["problem"] for finding in found["findings"]["findings"])


@pytest.mark.slow
def test_inspection_of_a_run(client):
    """The problems are those that the command prints."""
    content = client.post("/api/run/plain/doctor", json={}, headers=ORIGIN).content
    found = answers(content)
    command = found[0][0]["command"].split()
    printed = fromnoise(*command[1:])
    assert all(finding["problem"] in printed for finding in found[-1][0]["findings"])
