"""The web interface: first paint, a step of the slider, sampling against the command line, many runs, memory.

python benchmarks/web.py [--run RUN] [--rounds N] [--pairs N] [--steps K] [--updates N] [--only NAMES]

Needs chromium and Playwright (pip install playwright). Times in the browser end when the frame is painted. Without
--run a network of 3x32x32 images with random weights samples; its speed is that of a trained one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from header import header

RUNS, REPORTS = 100, 10_000
LINES = 500  # of the run that is watched
QUICK = """from pathlib import Path
from fromnoise.web import serve, streams
streams.INTERVAL = 0.01  # seconds between two readings of the runs
serve.serve(Path({folder!r}), [], "127.0.0.1", 0)"""
OUT = Path(tempfile.gettempdir()) / "web-benchmark.npz"
PAINTED = """() => new Promise(done => new PerformanceObserver(list => done(list.getEntriesByName(
    'first-contentful-paint')[0].startTime)).observe({type: 'paint', buffered: true}))"""
SCRUB = """async () => { const s = document.getElementById('time'), times = [];
    for (let i = 0; i <= Number(s.max); i++) { const begin = performance.now(); s.value = i;
        s.dispatchEvent(new Event('input')); const handled = performance.now();
        await new Promise(requestAnimationFrame); await new Promise(done => setTimeout(done));
        times.push([handled - begin, performance.now() - begin]) } return times }"""


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run directory to sample from")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=40, help="of the page and the command, for sample")
    parser.add_argument("--steps", type=int, default=25, help="of sampling, for sample")
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--only", default="paint,scrub,sample,loop,cpu,runs,memory")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    print(header())
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as name:
        flags = ["--no-sandbox", "--enable-precise-memory-info", "--js-flags=--expose-gc"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        run = args.run or random_run(Path(name) / "runs" / "random")
        for part in args.only.split(","):
            MEASUREMENTS[part](browser, run.resolve(), args)
        browser.close()


def random_run(run: Path) -> Path:
    """A model of 3x32x32 images with random weights."""
    from fromnoise import checkpoint, config
    from fromnoise.data.dataset_info import DatasetInfo
    from fromnoise.model import build

    recipe = config.load("images", {"network.width": 32, "train.autosize": []})
    model = build(recipe, DatasetInfo((3, 32, 32)))
    checkpoint.save_model(run / "model.safetensors", model, model.denoiser.state_dict(), {"step": 0})
    return run


@contextlib.contextmanager
def server(folder: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str], float]]:
    """A server of a folder of runs: its address, its process and the seconds until it listens."""
    begin = time.perf_counter()
    command = words or (sys.executable, "-m", "fromnoise", "web", str(folder), "--port", "0")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    try:
        yield address, process, time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def described(name: str, values: list[float], unit: str) -> None:
    """Print the median and the range of some values."""
    middle = statistics.median(values)
    print(f"{name}: {middle:.3g} {unit} (median of {len(values)}; {min(values):.3g} to {max(values):.3g})")


def paint(browser, run: Path, args: argparse.Namespace) -> None:
    """From the command to the first paint of the runs."""
    times = []
    for _ in range(args.rounds):
        with server(run.parent) as (address, _, seconds):
            page = browser.new_page()
            page.goto(address, wait_until="commit")
            painted = page.evaluate(PAINTED)
            times.append(seconds + painted / 1000)
            page.close()
    described("first paint after the command", times, "s")


def scrub(browser, run: Path, args: argparse.Namespace) -> None:
    """A step of the slider of times, over 64 samples."""
    with server(run.parent) as (address, _, _):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(300_000)
        page.goto(f"{address}run/{run.name}/sample?n=64&steps=50&sampler=ddim")
        page.locator("#state", has_text=re.compile(r"\d s$")).wait_for()
        times = page.evaluate(SCRUB)
        page.close()
    described("a step of the slider, handled", [a for a, _ in times], "ms")
    described("a step of the slider, painted", [b for _, b in times], "ms")


COMMAND = """import contextlib, io, re, sys
from fromnoise.cli import main
for line in sys.stdin:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert main(["sample", *line.rstrip().split("\t")]) == 0
    print(re.findall(r"\\((\\S+) s each\\)", out.getvalue())[0], flush=True)"""


@contextlib.contextmanager
def command_process() -> Iterator[subprocess.Popen[str]]:
    """A process that gives the command again and again and prints its seconds a sample: both sides are warm."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def sample(browser, run: Path, args: argparse.Namespace) -> None:
    """64 samples of DDIM on the page and by the command, in pairs of which every second is in the other order.

    Beside other work a time says little; two times that follow each other share most of it, and the median of their
    ratios over many pairs is steady.
    """
    page_times, command_times = [], []
    with server(run.parent) as (address, _, _), command_process() as command:
        requests, answers = command.stdin, command.stdout
        assert requests is not None and answers is not None
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(300_000)
        page.goto(f"{address}run/{run.name}/sample")
        page.locator("#state", has_text="parameters").wait_for()
        page.select_option("#sampler", "ddim")
        for field, value in {"#n": "64", "#steps": str(args.steps)}.items():
            page.fill(field, value)

        def by_page(seed: int) -> None:
            page.fill("#seed", str(seed))
            page.evaluate("document.getElementById('state').textContent = ''")
            page.click("#go")
            state = page.locator("#state", has_text=re.compile(r"\d s$"))
            state.wait_for()
            page_times.append(float(state.inner_text().split()[0]))

        def by_command(seed: int) -> None:
            flags = (
                "-n",
                "64",
                "--steps",
                str(args.steps),
                "--sampler",
                "ddim",
                "--seed",
                str(seed),
                "--out",
                str(OUT),
            )
            requests.write("\t".join([str(run), *flags]) + "\n")
            requests.flush()
            command_times.append(64 * float(answers.readline()))

        for seed in range(args.pairs + 1):
            for job in (by_page, by_command)[:: -1 if seed % 2 else 1]:
                job(seed)
        page.close()
    described(f"64 samples, {args.steps} steps, on the page", page_times[1:], "s")
    described(f"64 samples, {args.steps} steps, by the command", command_times[1:], "s")
    ratios = sorted(a / b for a, b in zip(page_times[1:], command_times[1:], strict=True))
    described("page / command", ratios, "")
    print(f"half of the ratios are from {ratios[len(ratios) // 4]:.3f} to {ratios[-len(ratios) // 4]:.3f}")


def loop(browser, run: Path, args: argparse.Namespace) -> None:
    """The job of the computing process, which sends every step, over the loop alone: pairs in one process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from fromnoise.pipeline import collect
    from fromnoise.web.compute import sampling
    from fromnoise.web.compute.__main__ import Channel, Output
    from fromnoise.web.compute.models import open_model

    model, output = open_model(str(run)), Output(os.open(os.devnull, os.O_WRONLY))
    form = {"count": 64, "sampler": "ddim", "steps": args.steps, "label": None, "guidance": None, "size": None}

    def seconds(sends: bool, seed: int) -> tuple[float, float]:
        values = form | {"seed": seed, "options": {}}
        begin, begin_cpu = time.perf_counter(), time.process_time()
        if sends:
            sampling.sample(Channel(1, output, set()).send, str(run), values)
        else:
            collect(sampling.steps_of(model, values))
        return time.perf_counter() - begin, time.process_time() - begin_cpu

    walls, cpus = [], []
    for seed in range(args.pairs + 1):
        order = (True, False) if seed % 2 else (False, True)
        found = {sends: seconds(sends, seed) for sends in order}
        walls.append(found[True][0] / found[False][0])
        cpus.append(found[True][1] / found[False][1])
    described("job that sends every step / loop alone, wall time", walls[1:], "")
    described("job that sends every step / loop alone, CPU", cpus[1:], "")


def cpu(browser, run: Path, args: argparse.Namespace) -> None:
    """CPU seconds of 64 samples of 100 steps less those of 1 step: beside other work steadier than the time."""
    ratios, servers = [], []
    with server(run.parent) as (address, process, _):

        def sample_here(steps: int, seed: int) -> None:
            form = {"n": 64, "steps": steps, "sampler": "ddim", "seed": seed}
            headers = {"content-type": "application/json", "origin": address.rstrip("/")}
            asked = urllib.request.Request(f"{address}api/run/{run.name}/sample", json.dumps(form).encode(), headers)
            with urllib.request.urlopen(asked, timeout=600) as answer:
                while answer.read(1 << 16):
                    pass

        def command(steps: int) -> float:
            begin = resource.getrusage(resource.RUSAGE_CHILDREN)
            flags = ("-n", "64", "--steps", str(steps), "--sampler", "ddim", "--out", str(OUT))
            subprocess.run(
                [sys.executable, "-m", "fromnoise", "sample", str(run), *flags], check=True, capture_output=True
            )
            end = resource.getrusage(resource.RUSAGE_CHILDREN)
            return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime

        sample_here(1, 0)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        worker = int(children[0])
        for seed in range(1, args.rounds + 1):
            alone = command(100) - command(1)
            begin, begin_server = cpu_seconds(worker), cpu_seconds(process.pid)
            sample_here(100, seed)
            middle, end_server = cpu_seconds(worker), cpu_seconds(process.pid)
            sample_here(1, seed)
            ratios.append((2 * middle - begin - cpu_seconds(worker)) / alone)
            servers.append((end_server - begin_server) / alone)
    described("CPU of the computing process / of the command", ratios, "")
    described("CPU of the server / of the command", servers, "")


def cpu_seconds(number: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(step: int, reports: int) -> str:
    """A line of reports.jsonl, as a training writes it."""
    values = {"step": step, "images": 64 * step, "loss": 0.5 + 1 / (step + 1), "lr": 2e-4, "dropped_steps": 0}
    values |= {"budget_used": step / reports, "rollbacks": 0, "grad_norm": 0.123456789}
    if step % 50 == 0:
        values |= {"held_out_loss": 0.4, "held_out_loss_raw": 0.5, "loss_by_t": [0.1234567] * 10}
    timing = {"seconds": 12.34, "images_per_second": 123.4, "remaining_seconds": 12.3, "memory_mb": 456, "threads": 2}
    return json.dumps(values | {"timing": timing}) + "\n"


def many_runs(folder: Path, runs: int, reports: int) -> None:
    """A folder of runs with many reports each."""
    lines = "".join(report(step, reports) for step in range(reports))
    recipe = 'name = "digits"\n[data]\nsource = "digits"\n'
    for i in range(runs):
        run = folder / f"run-{i:03d}"
        run.mkdir(parents=True)
        (run / "recipe.toml").write_text(recipe)
        (run / "reports.jsonl").write_text(lines)


def runs(browser, run: Path, args: argparse.Namespace) -> None:
    """A folder of 100 runs of 10,000 reports."""
    with tempfile.TemporaryDirectory() as name:
        many_runs(Path(name), RUNS, REPORTS)
        with server(Path(name)) as (address, _, _):
            paths = {f"{RUNS} cards": "", "a run": "run/run-007"}
            paths["the curves of 20 runs"] = "compare?" + "&".join(f"run=run-{i:03d}" for i in range(20))
            for title, path in paths.items():
                times = []
                for _ in range(args.rounds):
                    page = browser.new_page()
                    begin = time.perf_counter()
                    page.goto(address + path)
                    page.locator(".card .numbers" if not path else ".plot canvas").last.wait_for()
                    if not path:
                        page.locator(".card .numbers", has_text="step").nth(RUNS - 1).wait_for()
                    times.append(time.perf_counter() - begin)
                    page.close()
                described(f"{title} of {REPORTS:,} reports each, complete", times, "s")


def memory(browser, run: Path, args: argparse.Namespace) -> None:
    """Of the server and of an open page, at each fifth of the updates; the file of reports keeps its length."""
    with tempfile.TemporaryDirectory() as name:
        many_runs(Path(name), 5, LINES)
        file = Path(name) / "run-000" / "reports.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        words = (sys.executable, "-c", QUICK.format(folder=name))
        with server(Path(name), *words) as (address, process, _):
            page = browser.new_page()
            page.goto(f"{address}run/run-000")
            page.locator("#loss canvas").wait_for()
            for i in range(1, args.updates + 1):
                lines = [*lines[1:], report(LINES + i, 10_000)]
                file.write_text("".join(lines))
                time.sleep(0.03)  # three readings by the server; a question of the page's state would use its memory
                if i % (args.updates // 5) == 0:
                    page.locator("#numbers", has_text=f"step {LINES + i:,} ").wait_for()
                    page.evaluate("gc()")
                    heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
                    server_mib = resident(process.pid)
                    print(f"after {i:,} updates: server {server_mib:.1f} MiB, page {heap:.1f} MiB")
            page.close()


def resident(number: int) -> float:
    """The memory of a process in MiB."""
    pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


MEASUREMENTS = {part.__name__: part for part in (paint, scrub, sample, loop, cpu, runs, memory)}

if __name__ == "__main__":
    main()
