"""Trainings are processes of their own: they outlive the server, and runs that were started elsewhere appear."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import ORIGIN, fromnoise
from starlette.testclient import TestClient

from fromnoise.run_dir.reports import ROUNDS, read_reports
from fromnoise.utils.locks import lock_folder, lock_holder, unlock_folder
from fromnoise.web.app import create_app, create_site
from fromnoise.web.documents import evaluated
from fromnoise.web.report_lines import curves, last_report
from fromnoise.web.run_state import run_state
from fromnoise.web.settings import Settings
from fromnoise.web.streams import states_of
from fromnoise.web.training_requests import continue_command


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_two_servers_show_the_same(runs):
    """They read the same files and have no state of their own."""
    a, b = (create_site(Settings(runs)) for _ in range(2))
    assert states_of(a) == states_of(b)
    pages = [TestClient(create_app(site), base_url="http://127.0.0.1:7860") for site in (a, b)]
    for path in ("/", "/run/plain", "/compare?run=plain&run=labelled"):
        first, second = (page.get(path).text for page in pages)
        assert first == second


def test_state_of_a_run(runs):
    """As its files say."""
    state = run_state(runs / "plain")
    assert (state.status, state.recipe, state.data, state.step, state.progress) == (
        "finished",
        "digits",
        "digits",
        3,
        1,
    )
    assert state.sampleable and state.preview == "samples.png" and state.loss is not None
    assert run_state(runs / "labelled").previews == 0


def test_command_of_a_finished_run_changes_nothing(runs, client):
    """The command that its page shows continues it, and it is finished."""
    page = client.get("/run/plain").text
    command = page.split('<code id="command">')[1].split("</code>")[0]
    before = (runs / "plain" / "reports.jsonl").read_bytes()
    words = command.split()
    assert words[:2] == ["fromnoise", "train"]
    fromnoise(*words[1:])
    assert (runs / "plain" / "reports.jsonl").read_bytes() == before


def test_clusterings_are_continued_by_their_own_verb(tmp_path, monkeypatch):
    """With the recipe of the run, which has all settings."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "a b"
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text('[data]\nsource = "digits"\n[clustering]\ncount = 3\n')
    assert continue_command(run) == ["train", "runs/a b/recipe.toml", "--out", "runs/a b"]
    (run / ROUNDS).write_text("[]\n")
    recipe = ["--recipe", "runs/a b/recipe.toml"]
    assert continue_command(run) == ["cluster", "digits", "-q", "3", *recipe, "--out", "runs/a b"]


def test_lock_names_its_holder(tmp_path):
    """While it is held; a left file of a process that has ended, or of another one, names none."""
    assert lock_holder(tmp_path) is None
    handle = lock_folder(tmp_path)
    assert handle is not None and lock_holder(tmp_path) == os.getpid()
    os.close(handle)  # as by a kill: the file stays
    assert (tmp_path / ".lock").exists() and lock_holder(tmp_path) is None
    (tmp_path / ".lock").write_text("1 elsewhere\n")
    assert lock_holder(tmp_path) is None
    (tmp_path / ".lock").write_text("x" * 10_000)
    assert lock_holder(tmp_path) is None
    handle = lock_folder(tmp_path)
    unlock_folder(tmp_path, handle, remove=True)
    assert lock_holder(tmp_path) is None


def test_reports_of_ten_thousand_lines(tmp_path):
    """Are read in part: the last, and four hundred of each curve with both ends."""
    path = tmp_path / "reports.jsonl"
    lines = []
    for step in range(10_000):
        report = {
            "step": step,
            "images": step,
            "loss": 1.0,
            "lr": 1e-3,
            "budget_used": step / 9_999,
            "dropped_steps": 0,
        }
        report |= {"rollbacks": 0, "grad_norm": 1.0, "timing": {"seconds": 1.0, "images_per_second": 5.0}}
        if step % 500 == 499:
            report |= {"held_out_loss": 0.5, "held_out_loss_raw": 0.6, "loss_by_t": [0.1] * 10}
        lines.append(json.dumps(report))
    path.write_text("\n".join(lines[:5000] + ["{damaged"] + lines[5000:]) + "\n")
    assert len(read_reports(path).reports) == 10_000
    last = last_report(path)
    assert last is not None and last["step"] == 9_999
    found = curves(path)
    assert found["step"][0] == 0 and found["step"][-1] == 9_999 and len(found["step"]) == 400
    assert found["held_out"]["step"] == list(range(499, 10_000, 500)) and found["by_t"] == [0.1] * 10
    with open(path, "a") as file:
        file.write('{"step": 10')  # as it is while a line is written
    assert last_report(path) == last
    assert last_report(tmp_path / "none") is None and curves(tmp_path / "none")["step"] == []


def test_evaluations_are_read_tolerantly(tmp_path):
    """Numbers of a report, and nothing of what is none."""
    source = {"name": "a", "n": 20, "cost": {"nfe": 5}, "frechet": {"value": 1.5, "error": 0.1, "real_vs_real": 1e999}}
    for i, content in enumerate([{"evaluations": [source]}, [], {"evaluations": [3]}, {"evaluations": {"a": 1}}]):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / "report.json").write_text(json.dumps(content))
    expected = {"report": "0", "name": "a", "n": 20, "nfe": 5, "value": 1.5, "error": 0.1, "real_vs_real": None}
    assert evaluated(tmp_path / "0") == [expected]
    assert [evaluated(tmp_path / name) for name in ("1", "2", "3", "none")] == [[]] * 4


@pytest.mark.slow
def test_start_stop_and_continue(tmp_path, monkeypatch):
    """By the page: the run trains, writes its state on the signal, and goes on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    site = create_site(Settings(tmp_path / "runs"))
    client = TestClient(create_app(site), base_url="http://127.0.0.1:7860")

    def state() -> dict[str, object]:
        runs = states_of(site)["runs"]
        return runs[0] if runs else {"status": None, "step": 0}

    def ask(path: str, **values: object) -> dict[str, object]:
        answer = client.post(path, json=values, headers=ORIGIN)
        assert answer.status_code == 200, answer.text
        return answer.json()

    form = {"recipe": "digits", "data": "digits", "name": "one", "budget": "steps", "amount": 5000}
    started = ask("/api/start", **form)
    assert started["command"] == "fromnoise train digits --data digits --steps 5000 --out runs/one"
    try:
        wait_for(lambda: state()["status"] == "running")
        assert client.post("/api/start", json=form, headers=ORIGIN).status_code == 400
        assert client.post("/api/run/one/continue", headers=ORIGIN).status_code == 400
        wait_for(lambda: state()["step"])  # reports are there before the first checkpoint
        ask("/api/run/one/stop")
        wait_for(lambda: state()["status"] == "stopped")
        reached = int(state()["step"])  # pyright: ignore[reportArgumentType]
        assert list((tmp_path / "runs" / "one" / "state").glob("*.safetensors"))
        ask("/api/run/one/continue")
        wait_for(lambda: state()["status"] == "running" and int(state()["step"]) > reached)  # pyright: ignore
    finally:
        holder = lock_holder(tmp_path / "runs" / "one")
        if holder is not None:
            os.kill(holder, signal.SIGKILL)


def _serve(place: Path) -> tuple[subprocess.Popen[str], str]:
    """``fromnoise web`` in a process of its own, and its address."""
    command = [sys.executable, "-m", "fromnoise", "web", "runs", "--port", "0"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()[-1]


@pytest.mark.long
def test_server_killed_at_twenty_random_moments(tmp_path, monkeypatch):
    """The run that it started trains on, and has the weights of an undisturbed one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    rng, steps = random.Random(0), 300
    form = {"recipe": "digits", "data": "digits", "name": "one", "budget": "steps", "amount": steps}
    for i in range(20):
        process, address = _serve(tmp_path)
        try:
            with urllib.request.urlopen(address, timeout=30) as page:
                assert page.status == 200
            if i == 0:
                headers = {"content-type": "application/json", "origin": address.rstrip("/")}
                asked = urllib.request.Request(f"{address}api/start", json.dumps(form).encode(), headers)
                with urllib.request.urlopen(asked, timeout=30) as answer:
                    assert answer.status == 200
            time.sleep(rng.uniform(0, 2.0))
        finally:
            process.kill()
            process.communicate()
    run = tmp_path / "runs" / "one"
    wait_for(lambda: run_state(run).progress == 1 and lock_holder(run) is None, 600)
    fromnoise("train", "digits", "--data", "digits", "--steps", steps, "--out", tmp_path / "two")
    from safetensors.torch import load_file

    weights, undisturbed = (load_file(path / "model.safetensors") for path in (run, tmp_path / "two"))
    assert weights.keys() == undisturbed.keys()
    assert all(bool((weights[name] == undisturbed[name]).all()) for name in weights)
    assert tomllib.loads((run / "recipe.toml").read_text())["train"]["steps"] == steps
