"""The files of a space of the hub start a demonstration as the hub would start it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import INTERPRETER, answers

SPACE = Path(__file__).parents[2] / "examples" / "space"
HOST = "owner-digits.hf.space"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]  # the process that has made the runs


@pytest.fixture
def space(runs, tmp_path) -> Path:
    """The files of the space, with a run beside them."""
    shutil.copytree(SPACE, tmp_path / "space")
    shutil.copytree(runs / "plain", tmp_path / "space" / "model")
    return tmp_path / "space"


@contextlib.contextmanager
def started(space: Path, **environment: str) -> Iterator[list[str]]:
    """``python app.py`` on a free port: the two lines that it prints."""
    words = [INTERPRETER, "app.py"]
    values = {**os.environ, "PORT": "0", "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(words, cwd=space, env=values, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield [process.stdout.readline() for _ in range(2)]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def ask(address: str, path: str, body: dict[str, object] | None = None, host: str = HOST) -> tuple[int, bytes]:
    """What the hub's proxy gets for a visitor: code and content."""
    headers = {"host": host, "origin": f"https://{host}", "content-type": "application/json"}
    data = json.dumps(body).encode() if body is not None else None
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data, headers), timeout=300) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_space(space):
    """By its name everybody samples, and nothing else; its files name the port at which the hub looks."""
    assert "app_port: 7860" in (space / "README.md").read_text() and '"7860"' in (space / "app.py").read_text()
    with started(space, SPACE_HOST=HOST) as (first, second):
        address = re.search(r"http://\S+/", first)
        assert address is not None and HOST in second
        code, page = ask(address[0], "")
        assert code == 200 and b"Sample from model" in page
        code, content = ask(address[0], "api/run/model/sample", {"n": 2})
        assert code == 200 and answers(content)[-1][0]["event"] == "end"
        assert ask(address[0], "api/run/model/sample", {"n": 65})[0] == 400
        assert ask(address[0], "new")[0] == 404 and ask(address[0], "", host="evil.example")[0] == 421


def test_space_elsewhere(space):
    """Without the hub's name for it the page asks for its token."""
    with started(space) as (first, second):
        address = re.search(r"(http://\S+/)\?token=\S+", first)
        assert address is not None and "token" in second
        host = address[1].removeprefix("http://").rstrip("/")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(urllib.request.Request(address[1], headers={"host": host}), timeout=30)
