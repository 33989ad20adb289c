"""The commands that the pages show do what the pages do; those of samples and edits are tested beside them."""

from __future__ import annotations

import html
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import ORIGIN, fromnoise

from fromnoise.web import serve


def command_of(client, path: str) -> list[str]:
    """The words of the command that a page shows."""
    page = client.get(path).text
    words = shlex.split(html.unescape(page.split('<code id="command">')[1].split("</code>")[0]))
    assert words[0] == "fromnoise"
    return words[1:]


def test_commands_of_pages_run(client, runs, tmp_path, monkeypatch):
    """The list of runs, samples and edits, as the pages show them before anything is chosen."""
    monkeypatch.chdir(tmp_path)
    served = []
    monkeypatch.setattr(serve._Server, "run", lambda server, sockets: served.append(server._site.settings.runs))
    fromnoise(*command_of(client, "/"), "--port", "0")
    assert served == [runs]
    fromnoise(*command_of(client, "/run/plain/sample"))
    assert Image.open("samples.png").size[0] > 4 * 8
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save("photo.png")
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save("mask.png")
    fromnoise(*command_of(client, "/run/plain/edit"))
    edited = np.asarray(Image.open("edited.png"))
    assert (edited[~np.eye(8, dtype=bool)] == 200).all()


@pytest.mark.long
def test_commands_of_slow_pages_run(client, runs, tmp_path, monkeypatch):
    """A new run, the evaluation of two runs, rate and distortion, and the nearest training images."""
    monkeypatch.chdir(tmp_path)
    assert "600 steps" in fromnoise(*command_of(client, "/new"), "--dry-run")
    words = command_of(client, "/compare?run=plain&run=labelled")
    fromnoise(*words)
    report = json.loads((runs / "plain" / "evaluation-1" / "report.json").read_text())
    assert [source["name"] for source in report["evaluations"]] == words[1:]
    fromnoise(*command_of(client, "/run/plain/understand"))
    assert Path("rate.png").is_file()
    answer = client.post("/api/run/plain/nearest", json={"n": 2}, headers=ORIGIN)
    words = shlex.split(json.loads(answer.content.partition(b"\n")[0])["command"])
    fromnoise(*words[1:])
    assert "nearest" in (runs / "plain" / "evaluation-2" / "report.md").read_text()
