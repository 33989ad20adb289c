"""One walk through the whole interface in a browser: an empty folder, 60 seconds of training, and everything after."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import time
from pathlib import Path

import numpy as np
import pytest
from browsing import NEEDS, canvas, run_command, sampled, serve, sync_api, watched
from serving import fromnoise

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("browser"), NEEDS]
MINUTE = 1.0
LEVELS = 6  # grey levels by which samples may differ where one process has trained, and so rounds by C kernels
TRAINED_MS = 900_000  # the end of a minute of training beside other work, with its samples


@pytest.mark.timeout(3600)
def test_walk(browser, tmp_path, monkeypatch, capsys):
    """Every step that a person takes, by clicks; the commands of the pages do the same."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for address in serve(tmp_path, "runs"):
        for page in watched(browser, address):
            page.set_default_timeout(TRAINED_MS)
            times = {"trained": _train(page)}
            for name, step in STEPS.items():
                begun = time.perf_counter()
                step(page, tmp_path)
                times[name] = time.perf_counter() - begun
    with capsys.disabled():
        print("", *(f"{name}: {seconds:.1f} s" for name, seconds in times.items()), sep="\n")


def _train(page) -> float:
    """An empty folder; three clicks: new run, the unit of the budget, start. Previews appear while it trains."""
    page.goto("/")
    assert "There are no runs yet" in page.inner_text("main")
    clicks = 0
    page.click("text=New run >> nth=0")
    clicks += 1
    page.wait_for_selector("#cost li >> nth=0")
    page.focus("#amount")
    page.keyboard.type(f"{MINUTE:g}")
    page.keyboard.press("Tab")
    page.keyboard.type("minutes")
    page.keyboard.press("Tab")
    page.locator("#cost", has_text="1.0 minutes").wait_for()
    page.locator("#checking", has_text=re.compile("^$")).wait_for(state="attached")
    if re.search(r"\b0 of \d+ previews", page.inner_text("#cost")):
        pytest.skip("this machine is too busy for previews within a minute")
    page.click("#start")
    clicks += 1
    begun = time.perf_counter()
    assert clicks <= 3
    page.wait_for_url("**/run/digits")
    page.wait_for_selector("#preview-image[src*='step_']")
    first = page.get_attribute("#preview-image", "src")
    page.locator("#status", has_text="finished").wait_for()
    if page.get_attribute("#preview", "max") != "0":  # of several, the last is shown
        assert page.get_attribute("#preview-image", "src") != first
    return time.perf_counter() - begun


def _sample(page, place: Path) -> None:
    """Two samplers, and the slider; both commands sample the same."""
    page.click("text=Sample now")
    page.wait_for_selector("#sampler option[value=ddim]", state="attached")
    page.select_option("#sampler", "ddim")
    page.select_option("#beside", "sampler:dpmpp-2m")
    page.fill("#n", "4")
    page.fill("#steps", "20")
    page.click("#go")
    sampled(page)
    lines = page.inner_text("#command").splitlines()
    assert [shlex.split(line)[6] for line in lines] == ["ddim", "dpmpp-2m"]
    shown = canvas(page, ".panel canvas")
    run_command(page, place, place / "samples.npz")
    assert np.array_equal(shown[:8, :8, 0], np.load(place / "samples.npz")["images"][0, 0])
    page.focus("#time")
    page.keyboard.press("Home")
    assert not np.array_equal(canvas(page, ".panel canvas"), shown)
    assert float(page.inner_text("#time-value")) > 0.9


def _inpaint(page, place: Path) -> None:
    """A sample is edited: a stroke, an inverse solver with an option; the command paints the same."""
    page.click("#edit-sample")
    page.wait_for_selector("#sampler option[value=ddim]", state="attached")
    sync_api.expect(page.locator("#kept")).to_have_value(re.compile("^image-"))
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.6 * box["height"], steps=5)
    page.mouse.up()
    page.select_option("#method", "repaint")
    page.fill("#solver-resamplings", "2")
    page.fill("#steps", "10")
    page.fill("#n", "1")
    page.click("#go")
    sampled(page)
    assert "--method repaint --resamplings=2" in page.inner_text("#command")
    run_command(page, place, place / "edited.npz")
    assert np.array_equal(canvas(page, ".panel canvas")[..., 0], np.load(place / "edited.npz")["images"][0, 0])


def _cluster(page, place: Path) -> None:
    """A clustering with its expected cost; its map, and the commands that continue and make it."""
    page.goto("/new")
    page.wait_for_selector("#recipe option[value=mixture]", state="attached")
    page.select_option("#task", "cluster")
    page.locator("#cost", has_text="E-step").wait_for()
    assert page.input_value("#name") == "clusters" and page.is_hidden("#labels")
    page.fill("#clusters", "3")
    page.fill("#limit", "200")
    page.fill("#amount", "20")
    page.select_option("#budget", "steps")
    page.locator("#cost", has_text="200 training images").wait_for()
    page.click("#start")
    page.wait_for_url("**/run/clusters")
    page.locator("#status", has_text="finished").wait_for()
    page.wait_for_selector("text=Cluster map")
    run_command(page, place)  # which continues it
    table = (place / "runs" / "clusters" / "map.csv").read_bytes()
    page.click("text=Cluster map")
    page.wait_for_selector("#legend label")
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#caption").startswith("image ")
    run_command(page, place)
    assert (place / "runs" / "clusters" / "map.csv").read_bytes() == table


def _compare(page, place: Path) -> None:
    """The curves of two runs over each other, samples of one seed, and a command for each."""
    page.goto("/")
    for name in ("digits", "clusters"):
        page.check(f".card[data-run={name}] input")
    page.click("text=Compare the marked runs")
    page.wait_for_selector("#curves canvas")
    page.fill("#n", "4")
    page.fill("#steps", "3")
    page.click("text=Sample from each")
    page.wait_for_selector("#scrubber:not([hidden])")
    assert len(page.inner_text("#command").splitlines()) == 2
    run_command(page, place, place / "same.npz")
    shown, saved = canvas(page, ".panel canvas")[:8, :8, 0], np.load(place / "same.npz")["images"][0, 0]
    assert np.abs(shown.astype(int) - saved).max() <= LEVELS, (shown, saved)


def _evaluate(page, place: Path) -> None:
    """The button writes a report, which opens; its command measures the same."""
    page.goto("/run/digits")
    page.wait_for_selector("#loss canvas")
    page.click("#evaluate")
    page.locator("#command", has_text="fromnoise evaluate").wait_for()
    words = shlex.split(page.inner_text("#command"))
    page.click("text=evaluation-1")
    assert "Samples against" in page.inner_text("h1")
    with contextlib.chdir(place):
        fromnoise(*words[1:])
    reports = [json.loads((place / f"runs/digits/evaluation-{i}/report.json").read_text()) for i in (1, 2)]
    distances = [report["evaluations"][0]["frechet"] for report in reports]
    first, second = distances
    assert first["n"] == second["n"]
    for key in ("value", "real_vs_real"):  # a process that has trained rounds by C kernels
        assert second[key] == pytest.approx(first[key], rel=0.01)


STEPS = {
    "two samplers, slider": _sample,
    "mask and inpainting": _inpaint,
    "clustering": _cluster,
    "comparison": _compare,
    "evaluation": _evaluate,
}
