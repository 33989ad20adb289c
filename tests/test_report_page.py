"""The HTML page of a report: wide tables wrap and scroll, so that nothing is cut off in a narrow window."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from fromnoise.reporting.documents import Code, Table, to_html

MEASURE = """<script>document.title = [document.documentElement, ...document.querySelectorAll("ELEMENTS")]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.tagName + e.scrollWidth).join(" ") || "fits"</script>"""


def page() -> str:
    """A command and the metrics of two runs, as many as ``fromnoise evaluate`` reports."""
    metrics = ("Frechet (classifier)", "kernel (classifier)", "precision", "recall", "density", "coverage", "score")
    rows = [[f"runs/a-name-of-usual-length steps={n}", "2000", *["12.345 ± 0.678"] * 7, "12.34"] for n in (5, 50)]
    table = Table(["", "n", *metrics, "Frechet (classifier) at n = ∞"], rows)
    return to_html("report", [Code("fromnoise evaluate " + " ".join(f"runs/name-{i}" for i in range(20))), table])


def test_tables_wrap_and_scroll():
    """Review D6: a value and its error stay whole, and a line may break between them."""
    text = page()
    assert re.search(r"table \{[^}]*overflow-x: auto", text) and "pre-wrap" in text
    assert "<td><span>12.345</span> <span>± 0.678</span></td>" in text
    assert "td span { white-space: nowrap }" in text


@pytest.mark.slow
@pytest.mark.parametrize(("width", "elements"), [(600, "pre, p"), (900, "pre, table"), (1100, "pre, table")])
def test_nothing_is_wider_than_the_window(tmp_path, width, elements):
    """Measured by Chromium, where there is one; at 600 pixels a wide table scrolls within the page."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no chromium here")
    (tmp_path / "page.html").write_text(page().replace("</body>", MEASURE.replace("ELEMENTS", elements) + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"--window-size={width},2000"]
    done = subprocess.run([*command, str(tmp_path / "page.html")], capture_output=True, text=True, timeout=120)
    assert "<title>fits</title>" in done.stdout, re.findall("<title>.*</title>", done.stdout)
