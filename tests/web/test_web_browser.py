"""A person at the web interface: a real browser (Debian's chromium), driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsing import NEEDS, canvas, run_command, sampled, serve, sync_api, watched
from PIL import Image
from serving import SMALL, fromnoise

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser"), NEEDS]  # one process makes the runs


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with runs of a labelled model and its evaluation, and a clustering."""
    folder = tmp_path_factory.mktemp("browser")
    fromnoise("train", "digits", "--steps", "40", "--out", folder / "runs" / "a", *SMALL, "--train.previews", "3")
    labelled = ["--data.labels", "true", "--train.seed", "1"]
    fromnoise("train", "digits", "--steps", "10", "--out", folder / "runs" / "b", *SMALL, *labelled)
    fromnoise("evaluate", folder / "runs" / "a", "-n", "20", "--features", "pixels", "--bits", "0")
    network = [word for word in SMALL if not word.startswith("--sample")]
    cluster = ["--steps", "4", "-n", "60", "--out", folder / "runs" / "clusters", *SMALL[: len(network)]]
    fromnoise("cluster", "digits", "-q", "3", *cluster, "--clustering.rounds", "1", "--clustering.init", "pca")
    return folder


@pytest.fixture(scope="module")
def server(place) -> Iterator[str]:
    """The address of a server of that folder, and of an empty one beside it."""
    yield from serve(place, "runs")


@pytest.fixture
def page(browser, server) -> Iterator[object]:
    """A new page, which fails on errors of its modules and on requests to elsewhere."""
    yield from watched(browser, server)


def test_from_nothing_to_a_trained_run_in_three_clicks(browser, tmp_path):
    """An empty folder; new run, start; previews appear, the page of the run opens, and the run ends."""
    for address in serve(tmp_path, "runs"):
        for page in watched(browser, address):
            page.goto("/")
            assert "There are no runs yet" in page.inner_text("main")
            page.click("text=New run >> nth=0")
            page.wait_for_selector("#findings li:has-text('none'), #findings li:has-text(':')")
            assert "600 steps" in page.inner_text("#cost")
            page.fill("#amount", "3")
            page.select_option("#budget", "steps")
            page.click("#start")
            page.wait_for_url("**/run/digits")
            page.locator("#status", has_text="finished").wait_for()
            page.wait_for_selector("#preview-image[src*='step_']")
            assert page.locator(".gallery img").count() >= 3
            page.goto("/")
            assert page.locator(".card .status").inner_text() == "finished"


def test_sample_scrub_and_compare_samplers(page, place, tmp_path):
    """Two samplers beside each other; the slider shows earlier steps within 50 ms; the command samples the same."""
    page.goto("/run/a/sample")
    page.wait_for_selector("#sampler option[value=ddim]", state="attached")
    page.select_option("#sampler", "ddim")
    page.select_option("#beside", "sampler:heun")
    page.fill("#steps", "8")
    page.fill("#n", "4")
    page.click("#go")
    sampled(page)
    assert page.locator(".panel").count() == 2
    last, other = canvas(page, ".panel:nth-child(1) canvas"), canvas(page, ".panel:nth-child(2) canvas")
    assert last.shape == (17, 17, 4) and not np.array_equal(last, other)
    run_command(page, place, tmp_path / "a.npz")
    images = np.load(tmp_path / "a.npz")["images"][:, 0]
    assert np.array_equal(last[:8, :8, 0], images[0]) and np.array_equal(last[9:, 9:, 0], images[3])
    times = page.evaluate("""() => { const s = document.getElementById('time'), t = [];
        for (let i = 0; i < 8; i++) { const b = performance.now(); s.value = i; s.dispatchEvent(new Event('input'));
        t.push(performance.now() - b) } return t }""")
    assert max(times) < 50
    page.focus("#time")
    for _ in range(7):
        page.keyboard.press("ArrowLeft")
    assert not np.array_equal(canvas(page, ".panel:nth-child(1) canvas"), last)
    assert float(page.inner_text("#time-value")) > 0.8
    page.check("input[name=kind][value=x0]")
    page.check("input[name=process][value=forward]")
    sampled(page)
    page.reload()  # the address samples the same
    sampled(page)
    assert np.array_equal(canvas(page, ".panel:nth-child(1) canvas"), last)


def test_paint_and_inpaint(page, place):
    """A sample, a stroke of the mouse, undo, keys, and the painted pixels alone change."""
    page.goto("/run/a/edit")
    page.wait_for_selector("#sampler option[value=ddim]", state="attached")
    page.click("#take")
    sync_api.expect(page.locator("#kept")).to_have_value(re.compile("^image-"))
    before = canvas(page, "#canvas")
    page.fill("#radius", "0")
    page.dispatch_event("#radius", "input")
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + 2, steps=4)
    page.mouse.up()
    assert (canvas(page, "#canvas") != before).any(2).sum() == 8
    page.click("#undo")
    assert np.array_equal(canvas(page, "#canvas"), before)
    page.focus("#canvas")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.fill("#steps", "6")
    page.fill("#n", "1")
    page.click("#go")
    sampled(page)
    result = canvas(page, ".panel canvas")[..., 0]
    changed = {tuple(place) for place in np.argwhere(result != before[..., 0]).tolist()}
    assert changed <= {(4, 4), (4, 5)}
    masks = list((place / "runs" / "a" / "edits").glob("mask-*.png"))
    assert [int((np.asarray(Image.open(m)) == 255).sum()) for m in masks] == [2]


def test_touch_on_an_uploaded_photo(browser, server, place, tmp_path):
    """A colour photo is cropped and resized to the model's images; a finger paints on it."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    for page in watched(browser, server, has_touch=True):
        page.goto("/run/b/edit")
        page.wait_for_selector("#sampler option[value=ddim]", state="attached")
        page.set_input_files("#file", tmp_path / "photo.jpg")
        sync_api.expect(page.locator("#kept")).to_have_value(re.compile("^image-"))
        before = canvas(page, "#canvas")
        assert before.shape == (8, 8, 4)
        box = page.locator("#canvas").bounding_box()
        finger = page.context.new_cdp_session(page)
        for kind, part in (("touchStart", 0.3), ("touchMove", 0.6), ("touchEnd", None)):
            places = [{"x": box["x"] + part * box["width"], "y": box["y"] + 0.5 * box["height"]}] if part else []
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})
        assert 5 <= (canvas(page, "#canvas") != before).any(2).sum() <= 30
        page.select_option("#edit-kind", "restore")
        page.select_option("#restore", "deblur")
        page.fill("#steps", "3")
        page.click("#go")
        sampled(page)
    stored = [Image.open(path) for path in (place / "runs" / "b" / "edits").glob("image-*.png")]
    assert [(image.size, image.mode) for image in stored] == [((8, 8), "L")]


def test_interpolate_and_vary(page):
    """Two samples become the ends of a slider."""
    page.goto("/run/a/edit")
    page.wait_for_selector("#sampler option[value=ddim]", state="attached")
    for seed in ("7", "8"):
        page.fill("#random", seed)
        shown = page.locator("#kept option").count()
        page.click("#take")
        sync_api.expect(page.locator("#kept option")).to_have_count(shown + 1)
    page.select_option("#edit-kind", "interpolate")
    page.select_option("#to", index=2)
    page.fill("#steps", "4")
    page.click("#go")
    sampled(page)
    first = canvas(page, ".panel canvas")
    page.fill("#point", "8")
    assert not np.array_equal(canvas(page, ".panel canvas"), first)
    page.select_option("#edit-kind", "vary")
    page.click("#go")
    sampled(page)


def test_compare_runs_and_open_a_report(page):
    """Marked on their cards: curves over each other, samples of one seed; then the report of an evaluation."""
    page.goto("/")
    page.check(".card[data-run=a] input")
    page.check(".card[data-run=b] input")
    page.click("text=Compare the marked runs")
    page.wait_for_selector("#curves canvas")
    page.fill("#n", "4")
    page.fill("#steps", "3")
    page.click("text=Sample from each")
    page.wait_for_selector("#scrubber:not([hidden])")
    assert page.locator(".panel").count() == 2
    page.goto("/run/a")
    page.wait_for_selector("#loss canvas")
    page.click("text=evaluation-1")
    assert "Samples against" in page.inner_text("h1")


def test_cluster_map(page, place):
    """Arrow keys go from image to image; a cluster can be hidden."""
    page.goto("/run/clusters")
    page.click("text=Cluster map")
    page.wait_for_selector("#legend label")
    assert page.locator("#legend label").count() <= 3
    full = page.eval_on_selector("#map", "c => c.toDataURL()")
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#caption").startswith("image ")
    assert canvas(page, "#image").shape == (8, 8, 4)
    table = (place / "runs" / "clusters" / "map.csv").read_bytes()
    run_command(page, place)
    assert (place / "runs" / "clusters" / "map.csv").read_bytes() == table
    page.uncheck("#legend label >> nth=0")
    assert page.eval_on_selector("#map", "c => c.toDataURL()") != full


def test_cluster_map_appears_after_the_training(page, place):
    """Its files are written when the run has ended already; the page of the run then shows it."""
    run, done = place / "runs" / "late", place / "runs" / "clusters"
    run.mkdir()
    for name in ("recipe.toml", "rounds.json", "reports.jsonl"):
        shutil.copy(done / name, run / name)
    page.goto("/run/late")
    page.wait_for_selector("#loss canvas")
    assert page.locator("text=Cluster map").count() == 0
    for name in ("map.csv", "map_images.png", "report.html"):
        shutil.copy(done / name, run / name)
    page.click("text=Cluster map")
    page.wait_for_selector("#legend label")


def test_understand(page, place, tmp_path):
    """The schedule, the evaluation of the run, and bits by step when they are asked for."""
    page.goto("/run/a/understand")
    page.wait_for_selector("#scales canvas")
    assert "evaluation-1" in page.inner_text("#evaluations")
    page.fill("#n", "2")
    page.click("#go")
    page.wait_for_selector("#rate canvas")
    run_command(page, place, tmp_path / "rate.png")
    assert (tmp_path / "rate.png").is_file()


PAGES = (
    "/",
    "/new",
    "/run/a",
    "/run/a/sample?n=9&steps=4",
    "/run/a/edit",
    "/run/a/understand",
    "/compare?run=a&run=b",
    "/run/clusters/clusters",
)


AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The program axe-core: of $FROMNOISE_AXE, or from npm."""
    own = os.environ.get("FROMNOISE_AXE")
    if own is not None:
        return Path(own).read_text()
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("npm is not installed: set FROMNOISE_AXE to axe.min.js of axe-core")
    try:
        subprocess.run([npm, "pack", AXE], cwd=folder, check=True, capture_output=True, timeout=60)
    except (subprocess.SubprocessError, OSError):
        pytest.skip("axe-core is not available: set FROMNOISE_AXE to its axe.min.js")
    with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def test_accessibility(browser, server, axe):
    """axe-core finds no serious fault, light and dark, at 1280 and at 390 pixels; nothing is wider than the window."""
    for page in watched(browser, server, bypass_csp=True):
        for path in PAGES:
            page.goto(path)
            page.wait_for_timeout(200)
            page.evaluate(axe)
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 900})
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme=scheme)
                    page.wait_for_timeout(100)
                    faults = page.evaluate("""async () => (await axe.run()).violations
                        .filter(v => ['serious', 'critical'].includes(v.impact))
                        .map(v => [v.id, v.nodes.map(n => n.html.slice(0, 120))])""")
                    assert faults == [], (path, width, scheme)
                    assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
