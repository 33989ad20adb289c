"""What the tests in a browser share: chromium driven by Playwright, a server, a page that fails on errors, canvases."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import fromnoise

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
NEEDS = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
PATIENCE = 120_000


def serve(place: Path, runs: str) -> Iterator[str]:
    """``fromnoise web RUNS`` in a process of its own: its address."""
    command = [sys.executable, "-m", "fromnoise", "web", runs, "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def watched(browser, server: str, **options: object) -> Iterator[object]:
    """A page whose errors and foreign requests fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=server, **options)
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda r: None if r.url.startswith((server, "blob:")) else problems.append(r.url))
    yield opened
    context.close()
    assert problems == []


def canvas(page, selector: str) -> np.ndarray:
    """The pixels of a canvas, uint8 (H, W, 4)."""
    script = """c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height);
        return [d.height, d.width, Array.from(d.data)] }"""
    height, width, values = page.eval_on_selector(selector, script)
    return np.array(values, np.uint8).reshape(height, width, 4)


def run_command(page, place: Path, out: Path | None = None) -> None:
    """Run the first command that the page shows where its server runs, with another file for what it writes."""
    words = shlex.split(page.inner_text("#command").splitlines()[0])
    if out is not None:
        words[words.index("--out") + 1] = str(out)
    with contextlib.chdir(place):
        fromnoise(*words[1:])


def sampled(page) -> None:
    """Wait for the end of the sampling."""
    page.locator("#state", has_text=re.compile(r"\d s$")).wait_for()
