"""``fromnoise evaluate``: its numbers, its report, and its error messages."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise.data import load

QUICK = ["-n", "60", "--features", "pixels", "--bits", "0", "--device", "cpu", "--precision", "fp32"]


class Page(html.parser.HTMLParser):
    """Images, tables and external resources of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images, self.tables, self.external = [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tables += tag == "table"
        for key in ("src", "href", "srcset", "data"):
            if key in attributes:
                (self.images if tag == "img" else self.external).append(attributes[key])
        self.external += [tag] * (tag in ("script", "link", "iframe", "object"))


def opened(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    return image


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory) -> Path:
    """Real digits as samples of another program: a .npz, and a folder of PNGs."""
    folder = tmp_path_factory.mktemp("others")
    data = load("digits", log=lambda line: None)
    images = data.train.get(torch.arange(80))
    np.savez(folder / "a.npz", images=images.numpy())
    (folder / "pngs").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / "pngs" / f"{i:03d}.png")
    return folder


def test_json_of_a_run(right, run, tmp_path):
    """Two distances as {value, error, real_vs_real, n, features} of each source; the report's folder has it too."""
    output = right("evaluate", run, *QUICK, "--json", "x.json", "--out", "report")
    plain = json.loads((tmp_path / "x.json").read_text())
    assert plain == json.loads((tmp_path / "report" / "report.json").read_text())
    (one,) = plain["evaluations"]
    for key in ("frechet", "kernel"):
        assert one[key].keys() >= {"value", "error", "real_vs_real", "n", "features"}
        assert one[key]["n"] == 60 and one[key]["features"] == "pixels" and one[key]["error"] > 0
        assert one[key]["value"] > one[key]["real_vs_real"]  # three steps of training
    assert one["cost"]["nfe"] == 2 and one["cost"]["parameters"] > 0 and one["cost"]["training_images"] == 24
    assert one["cost"]["flops_per_image"] > 2 * one["cost"]["parameters"]
    assert plain["reference_n"] == 1707 and "evaluate" in plain["command"]
    assert "estimated time" in output.err and "report.html" in output.out and "Frechet (pixels)" in output.out


def test_html_page_is_self_contained(right, run, tmp_path):
    """It embeds every figure, with tables and the command; the Markdown refers to files."""
    right("evaluate", run, *QUICK, "--sweep", "steps=2,3", "--out", "report")
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert page.external == [] and "http" not in text
    assert page.tables >= 4 and len(page.images) >= 7  # real, two samples, two copies, shares, metrics
    assert all(min(opened(i).size) > 8 for i in page.images)
    assert "fromnoise" in text and f"{run} steps=3" in text
    markdown = (tmp_path / "report" / "report.md").read_text()
    named = [part.partition(")")[0] for part in markdown.split("](")[1:]]
    assert len(named) == len(page.images) and all((tmp_path / "report" / name).exists() for name in named)
    assert "| --- | --: |" in markdown


@pytest.mark.slow
def test_html_page_in_a_browser(right, run, tmp_path):
    """Headless Chromium without a network shows its figures and tables."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = os.environ.get("FROMNOISE_BROWSER") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("Chromium is not installed: set FROMNOISE_BROWSER")
    right("evaluate", run, *QUICK, "--out", "report")
    count = (
        "<script>onload = () => { const all = [...document.images]; document.body.innerHTML = "
        "`found ${all.filter(i => i.naturalWidth > 8).length} of ${all.length} figures, "
        "${[...document.querySelectorAll('table')].filter(t => t.rows.length > 1).length} tables` }</script>"
    )
    page = tmp_path / "counted.html"
    page.write_text((tmp_path / "report" / "report.html").read_text().replace("</body>", count + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "found 4 of 4 figures, 5 tables" in done.stdout, done.stdout[-2000:]


def test_code_lengths_of_a_run(right, wrong, run, tmp_path):
    """Of held-out and of training images with error and n; none with --bits 0."""
    output = right("evaluate", run, *QUICK, "--bits", "8", "-n", "20", "--json", "x.json", "--out", "report")
    (one,) = json.loads((tmp_path / "x.json").read_text())["evaluations"]
    for key in ("bits_held_out", "bits_training", "bits_gap"):
        assert one[key]["error"] > 0 and one[key]["n"] == 8
    assert "bits/dim of training images" in (tmp_path / "report" / "report.md").read_text()
    assert "estimated time" in output.err
    right("evaluate", run, *QUICK, "--bits", "0", "-n", "20", "--json", "x.json", "--out", "another")
    (one,) = json.loads((tmp_path / "x.json").read_text())["evaluations"]
    assert not any(key.startswith("bits") for key in one)
    wrong("evaluate", run, "--bits", "1", message="--bits 1 is too small")


def test_image_files(right, digit_files, tmp_path):
    """A .npz and a folder of the same images have equal numbers; training images are only found to be copies."""
    right(
        *("evaluate", digit_files / "a.npz", digit_files / "pngs", "--against", "digits"),
        *(*QUICK, "--json", "x.json", "--out", "report"),
    )
    first, second = json.loads((tmp_path / "x.json").read_text())["evaluations"]
    assert first["cost"] is None and first["frechet"] == second["frechet"]
    assert [f["key"] for f in first["findings"]] == ["copies"]
    assert first["copies_pixels"]["value"] == 1


def test_models_and_samples_of_other_programs_beside_a_run(right, wrong, run, digit_files, tmp_path):
    """One table with an error in each cell; the run's data are the reference though a folder of diffusers is first."""
    right("export", run, "--to", "diffusers", "--out", "theirs")
    output = right(
        *("evaluate", "theirs", run, digit_files / "a.npz", digit_files / "pngs"),
        *(*QUICK, "--bits", "4", "-n", "20", "--json", "x.json", "--out", "report"),
    )
    plain = json.loads((tmp_path / "x.json").read_text())
    first, second, *files = plain["evaluations"]
    assert plain["reference_n"] == 1707 and [e["n"] for e in plain["evaluations"]] == [20] * 4
    assert (first["cost"]["nfe"], second["cost"]["nfe"]) == (20, 2) and [e["cost"] for e in files] == [None, None]
    assert "bits_gap" in second and "bits_gap" not in first and "theirs does not record its training data" in output.err
    rows = [line for line in output.out.splitlines() if " ± " in line]
    names = ["theirs", str(run), str(digit_files / "a.npz"), str(digit_files / "pngs")]
    assert len(rows) >= 5 and all(row.strip().startswith(name) for row, name in zip(rows, names, strict=False))
    assert all("held-out real images" in row for row in rows[4:])
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pt")
    wrong("evaluate", "model.pt", "--against", "digits", message=("pickle", "fromnoise import model.pt --out RUN"))
    wrong("evaluate", "theirs", message=("does not record its training data", "--against SPEC"))


def test_a_sweep_over_several_runs(right, run, told_run, tmp_path):
    """Each run with each combination, with its own cost."""
    right(
        *("evaluate", run, told_run, *QUICK, "--sweep", "sampler=ddim,heun", "--sweep", "steps=2"),
        *("--json", "x.json", "--out", "report", "-n", "20"),
    )
    evaluations = json.loads((tmp_path / "x.json").read_text())["evaluations"]
    cost = {e["name"]: e["cost"]["nfe"] for e in evaluations}
    assert len(cost) == 4 and cost[f"{run} sampler=ddim steps=2"] == 2 and cost[f"{told_run} sampler=heun steps=2"] == 3


def test_default_folder_of_the_report(right, run, tmp_path):
    """A new folder in the run each time; one with content is left alone."""
    shutil.copytree(run, tmp_path / "mine")
    (tmp_path / "mine" / "evaluation-1").mkdir()
    (tmp_path / "mine" / "evaluation-1" / "notes").write_text("x")
    right("evaluate", "mine", *QUICK, "-n", "12")
    assert (tmp_path / "mine" / "evaluation-2" / "report.html").exists()
    assert [path.name for path in (tmp_path / "mine" / "evaluation-1").iterdir()] == ["notes"]


def test_invalid_options(wrong, run, digit_files, tmp_path):
    """One line each; no file is changed."""
    npz = digit_files / "a.npz"
    wrong("evaluate", run, "-n", "3", message="-n 3 is too small")
    wrong("evaluate", npz, message="--against")
    wrong("evaluate", "nowhere", "--against", "digits", message="nowhere", notes=True)
    wrong("evaluate", run, "--features", "smell", message=("smell", "classifier, self-supervised, pixels"), notes=True)
    wrong("evaluate", run, "--sweep", "steps", message="steps=5,10,20")
    wrong("evaluate", run, "--sweep", "steps=2,2", "--sweep", "steps=3", message="twice")
    wrong("evaluate", run, "--sweep", "step=2", message=("step", "steps"), notes=True)
    wrong("evaluate", run, "--sweep", "steps=many", message="many", notes=True)
    wrong("evaluate", run, "--sweep", "sampler=fast", message="fast", notes=True)
    wrong("evaluate", run, "--json", "x.txt", message="x.txt")
    np.savez(tmp_path / "large.npz", images=np.zeros((20, 1, 9, 9), np.uint8))
    wrong("evaluate", "large.npz", "--against", "digits", message=("9x9", "8x8", "--size 9"), notes=True)
    np.savez(tmp_path / "few.npz", images=np.zeros((5, 1, 8, 8), np.uint8))
    wrong("evaluate", "few.npz", "--against", "digits", *QUICK, message="5 images", notes=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    wrong("evaluate", run, "--out", "full", message="not empty")
