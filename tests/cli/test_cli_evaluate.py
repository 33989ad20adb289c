"""``fromnoise evaluate``: its numbers, its page, and what it says of mistakes."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise.data import load

QUICK = ["-n", "60", "--features", "pixels", "--bits", "0", "--device", "cpu", "--precision", "fp32"]


class Page(html.parser.HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images, self.tables, self.asked = [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.tables += tag == "table"
        for key in ("src", "href", "srcset", "data"):
            if key in told:
                (self.images if tag == "img" else self.asked).append(told[key])
        self.asked += [tag] * (tag in ("script", "link", "iframe", "object"))


def opened(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    return image


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory) -> Path:
    """Real digits as another program would leave samples: a .npz, and a folder of PNGs."""
    folder = tmp_path_factory.mktemp("others")
    data = load("digits", log=lambda line: None)
    images = data.train.get(torch.arange(80))
    np.savez(folder / "a.npz", images=images.numpy())
    (folder / "pngs").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / "pngs" / f"{i:03d}.png")
    return folder


def test_the_contract(right, run, tmp_path):
    """Two distances as {value, error, floor, n, features} of each thing judged, here and in the report's folder."""
    said = right("evaluate", run, *QUICK, "--json", "x.json", "--out", "report")
    plain = json.loads((tmp_path / "x.json").read_text())
    assert plain == json.loads((tmp_path / "report" / "report.json").read_text())
    (one,) = plain["judged"]
    for key in ("frechet", "kernel"):
        assert one[key].keys() >= {"value", "error", "floor", "n", "features"}
        assert one[key]["n"] == 60 and one[key]["features"] == "pixels" and one[key]["error"] > 0
        assert one[key]["value"] > one[key]["floor"]  # three steps of training
    assert one["cost"]["evaluations"] == 2 and one["cost"]["parameters"] > 0 and one["cost"]["training_images"] == 24
    assert one["cost"]["flops"] > 2 * one["cost"]["parameters"]
    assert plain["reference_n"] == 1707 and "evaluate" in plain["command"]
    assert "this will take about" in said.err and "report.html" in said.out and "Frechet (pixels)" in said.out


def test_the_page_needs_nothing_but_itself(right, run, tmp_path):
    """Every picture is in it and can be decoded; tables, command and findings are there; Markdown names files."""
    right("evaluate", run, *QUICK, "--sweep", "steps=2,3", "--out", "report")
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert page.asked == [] and "http" not in text
    assert page.tables >= 4 and len(page.images) >= 7  # real, two samples, two copies, shares, quality
    assert all(min(opened(i).size) > 8 for i in page.images)
    assert "fromnoise" in text and f"{run} steps=3" in text
    markdown = (tmp_path / "report" / "report.md").read_text()
    named = [part.partition(")")[0] for part in markdown.split("](")[1:]]
    assert len(named) == len(page.images) and all((tmp_path / "report" / name).exists() for name in named)
    assert "| --- | --: |" in markdown


@pytest.mark.slow
def test_the_page_in_a_browser(right, run, tmp_path):
    """Headless Chromium, cut off from the network, finds its pictures drawn and its tables."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = os.environ.get("FROMNOISE_BROWSER") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium here: name one in FROMNOISE_BROWSER")
    right("evaluate", run, *QUICK, "--out", "report")
    count = (
        "<script>onload = () => { const all = [...document.images]; document.body.innerHTML = "
        "`found ${all.filter(i => i.naturalWidth > 8).length} of ${all.length} pictures, "
        "${[...document.querySelectorAll('table')].filter(t => t.rows.length > 1).length} tables` }</script>"
    )
    page = tmp_path / "counted.html"
    page.write_text((tmp_path / "report" / "report.html").read_text().replace("</body>", count + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "found 4 of 4 pictures, 5 tables" in done.stdout, done.stdout[-2000:]


def test_the_bits_of_a_run(right, wrong, run, tmp_path):
    """With their error and n, of held-out and of training images; not where they are not asked for."""
    said = right("evaluate", run, *QUICK, "--bits", "8", "-n", "20", "--json", "x.json", "--out", "report")
    (one,) = json.loads((tmp_path / "x.json").read_text())["judged"]
    for key in ("bits_held_out", "bits_training", "bits_gap"):
        assert one[key]["error"] > 0 and one[key]["n"] == 8
    assert "bits/dim of training images" in (tmp_path / "report" / "report.md").read_text()
    assert "this will take about" in said.err
    right("evaluate", run, *QUICK, "--bits", "0", "-n", "20", "--json", "x.json", "--out", "another")
    (one,) = json.loads((tmp_path / "x.json").read_text())["judged"]
    assert not any(key.startswith("bits") for key in one)
    wrong("evaluate", run, "--bits", "1", told="--bits 1 is too small")


def test_samples_of_others(right, digit_files, tmp_path):
    """A .npz and a folder of the same pictures have the same numbers; real ones have no findings but copies."""
    right(
        *("evaluate", digit_files / "a.npz", digit_files / "pngs", "--against", "digits"),
        *(*QUICK, "--json", "x.json", "--out", "report"),
    )
    first, second = json.loads((tmp_path / "x.json").read_text())["judged"]
    assert first["cost"] is None and first["frechet"] == second["frechet"]
    assert [f["key"] for f in first["findings"]] == ["copies"]
    assert first["copies_pixels"]["value"] == 1


def test_a_sweep_and_several_runs(right, run, told_run, tmp_path):
    """Each run with each combination, at its own cost; a run that knows classes is dealt all."""
    right(
        *("evaluate", run, told_run, *QUICK, "--sweep", "rule=ddim,heun", "--sweep", "steps=2"),
        *("--json", "x.json", "--out", "report", "-n", "20"),
    )
    judged = json.loads((tmp_path / "x.json").read_text())["judged"]
    cost = {j["name"]: j["cost"]["evaluations"] for j in judged}
    assert len(cost) == 4 and cost[f"{run} rule=ddim steps=2"] == 2 and cost[f"{told_run} rule=heun steps=2"] == 3


def test_the_report_goes_beside_the_run(right, run, tmp_path):
    """A new folder each time, nothing replaced."""
    shutil.copytree(run, tmp_path / "mine")
    (tmp_path / "mine" / "evaluation-1").mkdir()
    right("evaluate", "mine", *QUICK, "-n", "12")
    assert (tmp_path / "mine" / "evaluation-2" / "report.html").exists()
    assert not any((tmp_path / "mine" / "evaluation-1").iterdir())


def test_mistakes(wrong, run, digit_files, tmp_path):
    """One line each, and nothing is touched."""
    npz = digit_files / "a.npz"
    wrong("evaluate", run, "-n", "3", told="-n 3 is too small")
    wrong("evaluate", npz, told="--against")
    wrong("evaluate", "nowhere", "--against", "digits", told="nowhere", notes=True)
    wrong("evaluate", run, "--features", "smell", told=("smell", "classifier, self-supervised, pixels"), notes=True)
    wrong("evaluate", run, "--sweep", "steps", told="steps=5,10,20")
    wrong("evaluate", run, "--sweep", "steps=2,2", "--sweep", "steps=3", told="twice")
    wrong("evaluate", run, "--sweep", "step=2", told=("step", "steps"), notes=True)
    wrong("evaluate", run, "--sweep", "steps=many", told="many", notes=True)
    wrong("evaluate", run, "--sweep", "rule=fast", told="fast", notes=True)
    wrong("evaluate", run, "--json", "x.txt", told="x.txt")
    np.savez(tmp_path / "large.npz", images=np.zeros((20, 1, 9, 9), np.uint8))
    wrong("evaluate", "large.npz", "--against", "digits", told=("9x9", "8x8", "--size 9"), notes=True)
    np.savez(tmp_path / "few.npz", images=np.zeros((5, 1, 8, 8), np.uint8))
    wrong("evaluate", "few.npz", "--against", "digits", *QUICK, told="5 images", notes=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    wrong("evaluate", run, "--out", "full", told="not empty")


@pytest.mark.slow
def test_two_processes_are_one(right, run, tmp_path):
    """Each draws half of the pictures; the numbers are those of one, to what a byte may round otherwise."""
    words = ["evaluate", str(run), *QUICK, "--batch", "7", "-n", "45"]
    right(*words, "--out", "one")
    launcher = [str(Path(sys.executable).parent / "torchrun"), "--nproc_per_node", "2", "--master_port", "29613"]
    done = subprocess.run(
        [*launcher, "-m", "fromnoise", *words, "--out", "two"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "report.json").read_text())["judged"][0] for name in ("one", "two"))
    for key in ("frechet", "kernel", "precision", "coverage", "nearest_pixels"):
        assert two[key]["value"] == pytest.approx(one[key]["value"], rel=1e-3), key
    assert one["n"] == two["n"] == 45
