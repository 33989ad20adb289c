"""The verb, the streams of the server, and its computing process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys

import pytest
from serving import fromnoise

from fromnoise.cli import main
from fromnoise.utils.errors import UserError
from fromnoise.web import streams
from fromnoise.web.app import create_site
from fromnoise.web.settings import Settings, is_loopback
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
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
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

    async def work() -> None:
        worker = Worker()
        try:
            async with contextlib.aclosing(
                worker.stream("draw", run=str(runs / "plain"), sampling=sampling)
            ) as answers:
                kinds = [(await anext(answers))[0]["event"] for _ in range(3)]
            assert kinds == ["begin", "step", "step"]
            header, _ = await asyncio.wait_for(worker.result("describe", run=str(runs / "plain")), 20)
            assert header["shape"] == [1, 8, 8]
            process = worker._process
            assert process is not None
            long = asyncio.create_task(worker.result("draw", run=str(runs / "plain"), sampling=sampling))
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


@pytest.mark.slow
def test_inspection_of_a_run(client):
    """The problems are those that the command prints."""
    from serving import ORIGIN, answers

    content = client.post("/api/run/plain/doctor", json={}, headers=ORIGIN).content
    found = answers(content)
    command = found[0][0]["command"].split()
    printed = fromnoise(*command[1:])
    assert all(finding["problem"] in printed for finding in found[-1][0]["findings"])
