"""The pictures of the web interface in the documentation: its pages at 1280 and at 390 pixels.

python docs/draw_web.py RUNS [NAMES]

Needs chromium and Playwright. RUNS is a folder with a run `digits` that is conditional on the class, and a clustering:

    fromnoise train digits --data.labels true --steps 400 --out RUNS/digits
    fromnoise cluster digits -q 10 --steps 120 --clustering.init pca --clustering.rounds 1 --out RUNS/clusters
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import expect, sync_playwright

IMAGES = Path(__file__).parent / "images"
SCALE = 0.75
PATIENCE = 600_000


def opened(browser: Any, address: str, width: int, height: int, scheme: str) -> Any:
    """A new page in a window of a size and with light or dark colors."""
    size = {"width": width, "height": height}
    page = browser.new_context(viewport=size, base_url=address, color_scheme=scheme).new_page()
    page.set_default_timeout(PATIENCE)
    return page


def picture(page: Any) -> Image.Image:
    """What the window shows."""
    page.wait_for_timeout(500)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def sampled(page: Any) -> None:
    """Wait for the end of the sampling."""
    page.locator("#state", has_text=re.compile(r"\d s$")).wait_for()


def sample(browser: Any, address: str) -> Image.Image:
    """Two samplers beside each other, the slider in the middle."""
    page = opened(browser, address, 1280, 900, "light")
    page.goto("/run/digits/sample?n=16&steps=30&sampler=ddim&beside=sampler%3Adpmpp-2m&label=all")
    sampled(page)
    page.fill("#time", "22")
    return picture(page)


def edit(browser: Any, address: str) -> Image.Image:
    """A brush on a sample, and nine inpainted images by an inverse solver with its options."""
    page = opened(browser, address, 1280, 1000, "dark")
    page.goto("/run/digits/edit")
    page.wait_for_selector("#sampler option[value=ddim]", state="attached")
    page.fill("#random", "3")
    page.click("#take")
    expect(page.locator("#kept")).to_have_value(re.compile("^image-"), timeout=PATIENCE)
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.7 * box["height"], steps=6)
    page.mouse.up()
    for field, value in {"#n": "9", "#steps": "20"}.items():
        page.fill(field, value)
    page.click("#go")
    sampled(page)
    return picture(page)


def new(browser: Any, address: str) -> Image.Image:
    """The form of a new run, for a clustering, with its expected cost."""
    page = opened(browser, address, 1280, 900, "light")
    page.goto("/new")
    page.wait_for_selector("#recipe option[value=mixture]", state="attached")
    page.select_option("#task", "cluster")
    page.locator("#cost", has_text="E-step").wait_for()
    page.locator("#checking", has_text=re.compile("^$")).wait_for(state="attached")
    return picture(page)


def narrow(browser: Any, address: str) -> Image.Image:
    """A run, the list of runs and a cluster map, 390 pixels wide."""
    run = opened(browser, address, 390, 844, "light")
    run.goto("/run/digits")
    run.wait_for_selector("#loss canvas")
    runs = opened(browser, address, 390, 844, "dark")
    runs.goto("/")
    runs.locator(".card .numbers", has_text="step").nth(1).wait_for()
    clusters = opened(browser, address, 390, 844, "dark")
    clusters.goto("/run/clusters/clusters")
    clusters.wait_for_selector("#legend label")
    clusters.focus("#map")
    clusters.keyboard.press("ArrowRight")
    clusters.evaluate("document.activeElement.blur()")
    parts = [picture(page) for page in (run, runs, clusters)]
    sheet = Image.new("RGB", (3 * 390 + 2 * 20, 844), (128, 128, 128))
    for i, part in enumerate(parts):
        sheet.paste(part, (i * 410, 0))
    return sheet


PICTURES = {"web_sample": sample, "web_edit": edit, "web_new": new, "web_390": narrow}


def main() -> None:
    """Draw them."""
    command = [sys.executable, "-m", "fromnoise", "web", Path(sys.argv[1]).name, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(sys.argv[1]).parent)
    assert server.stdout is not None
    address = server.stdout.readline().split()[-1]
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for name in sys.argv[2:] or PICTURES:
                image = PICTURES[name](browser, address)
                small = image.resize([round(SCALE * side) for side in image.size], Image.Resampling.LANCZOS)
                small.quantize(128).save(IMAGES / f"{name}.png", optimize=True)
                print(IMAGES / f"{name}.png")
            browser.close()
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    main()
