"""``fromnoise train``: the files of a run, resuming, signals and errors, dry runs; ``recipes`` and ``show``."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from forked import ForkedCommand
from fromnoise import checkpoint
from fromnoise import config as recipes

FILES = {"recipe.toml", "reports.jsonl", "model.safetensors", "log", "samples.png", "reverse.gif", "reverse.png"}


def written(run):
    """The size of reports.jsonl."""
    file = run / "reports.jsonl"
    return file.stat().st_size if file.exists() else 0


def reports(run):
    """The lines of reports.jsonl, strictly JSON."""

    def never(word):
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=never) for line in (run / "reports.jsonl").read_text().splitlines()]


def weights(run):
    """The tensors of a run's model."""
    return checkpoint.read(run / "model.safetensors")[0]


def same(a, b):
    """Whether two models are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- the files of a run


def test_files_of_a_run(run):
    """All files that the summary lists, and no temporary ones."""
    assert {p.name for p in run.iterdir()} == FILES | {"forward.png", "loss.png", "samples", "state"}
    assert [p.name for p in (run / "samples").iterdir()] == ["first_batch.png"]
    for picture in [*run.glob("*.png"), *run.glob("*.gif"), *run.glob("samples/*.png")]:
        with Image.open(picture) as p:
            p.load()
            assert len(np.unique(np.asarray(p.convert("L")))) > 2
    assert 1 <= len(list((run / "state").glob("*.safetensors"))) <= 2
    assert checkpoint.load_model(run).progress == {"step": 3}


def test_reports(run):
    """Lines of JSON in the order of the steps, up to the last one, with held-out losses."""
    lines = reports(run)
    assert [r["step"] for r in lines] == sorted({r["step"] for r in lines})
    assert lines[-1]["step"] == 3 and lines[-1]["images"] == 24 and lines[-1]["budget_used"] == 1
    assert all(r["loss"] > 0 and r["timing"]["seconds"] >= 0 for r in lines)
    assert lines[-1]["held_out_loss"] > 0 and len(lines[-1]["loss_by_t"]) == 10


def test_recipe_of_a_run(run, small):
    """recipe.toml reads back as the recipe of the command line."""
    kept = recipes.load(str(run / "recipe.toml"))
    assert kept.name == "digits" and kept.train.steps == 3 and kept.train.minutes is None
    assert kept.network.width == 8 and kept.network.multipliers == (1,) and kept.network.attention_resolutions == ()


def test_previews(right, small, tmp_path):
    """An image at the start and at each preview."""
    right("train", "digits", "--steps", 2, "--out", "run", *small, "--train.previews", 2)
    names = sorted(p.name for p in (tmp_path / "run" / "samples").glob("step_*.png"))
    assert names == [f"step_{i:08d}.png" for i in (0, 1, 2)]


# ---- resuming


def test_larger_budget(right, small, tmp_path):
    """Three steps and two more equal five, bit for bit, and so do the reports."""
    words = ["train", "digits", *small, "--train.decay", "constant", "--train.report_every", 1]
    right(*words, "--steps", 3, "--out", "a")
    said = right(*words, "--steps", 5, "--out", "a").err
    assert "resuming from step 3" in said
    right(*words, "--steps", 5, "--out", "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    a, b = ([(r["step"], r["loss"], r["lr"]) for r in reports(tmp_path / name)] for name in "ab")
    assert a == b and len(a) == 5


def test_finished_run(right, small, tmp_path):
    """The same command trains no further and leaves weights and reports unchanged; it samples again."""
    words = ["train", "digits", "--steps", 2, "--out", "run", *small]
    right(*words)
    run = tmp_path / "run"
    before, lines = (run / "model.safetensors").read_bytes(), (run / "reports.jsonl").read_text()
    states = sorted(p.name for p in (run / "state").glob("*.safetensors"))
    (run / "samples.png").unlink()
    right(*words)
    assert (run / "model.safetensors").read_bytes() == before and (run / "reports.jsonl").read_text() == lines
    assert sorted(p.name for p in (run / "state").glob("*.safetensors")) == states
    assert (run / "samples.png").exists()


def test_damaged_state(right, small, tmp_path):
    """It is named in the log, and the run is resumed from the state before it."""
    words = ["train", "digits", "--out", "run", *small, "--train.checkpoint_steps", 1]
    right(*words, "--steps", 3)
    newest = max((tmp_path / "run" / "state").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    said = right(*words, "--steps", 4)
    assert "resuming from step 2" in said.err
    assert newest.name in (tmp_path / "run" / "log").read_text()
    assert checkpoint.load_model(tmp_path / "run").progress == {"step": 4}


# ---- signals and errors


def call_with_signal(run, number, *words, call):
    """Call in this process, and send it a signal soon after the first training state is written."""
    over = threading.Event()

    def send():
        while not over.wait(0.02):
            if list(run.glob("state/*.safetensors")):
                time.sleep(0.2)
                if not over.is_set():
                    os.kill(os.getpid(), number)
                return

    watcher = threading.Thread(target=send)
    watcher.start()
    try:
        return call(*words)
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_a_checkpoint(fromnoise, right, small, tmp_path, number):
    """The exit code is 128 + the signal's number, and the same command resumes from that step."""
    run = tmp_path / "run"
    words = ["train", "digits", "--out", "run", *small]
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    said = call_with_signal(run, number, *words, "--steps", 10**6, call=fromnoise)
    assert said.code == 128 + number and "Traceback" not in said.err
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    step = checkpoint.load_model(run).progress["step"]
    assert step >= 1 and f"stopped at step {step:,}" in said.err
    said = right(*words, "--steps", step + 2)
    assert f"resuming from step {step:,}" in said.err
    assert reports(run)[-1]["step"] == step + 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_resuming_after_signals(small, tmp_path):
    """The same command in a separate process, twice: after SIGINT, then after SIGTERM."""
    steps = [0]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = ForkedCommand(["train", "digits", "--steps", 10**6, "--out", "run", *small])
        begun, run, log = time.monotonic(), tmp_path / "run", tmp_path / "run" / "log"
        while not (run / "model.safetensors").exists() or (steps[-1] and "resuming" not in log.read_text()):
            assert process.poll() is None and time.monotonic() - begun < 120
            time.sleep(0.05)
        size = written(run)
        while written(run) == size:  # it trains
            assert process.poll() is None and time.monotonic() - begun < 120
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code and "Traceback" not in err
        steps.append(checkpoint.load_model(tmp_path / "run").progress["step"])
        assert steps[-1] > steps[-2]
    assert f"resuming from step {steps[1]:,}" in log.read_text()


def test_full_disk(fromnoise, right, small, tmp_path):
    """A state that cannot be written gives one line and exit code 2; a limit on file sizes simulates the full disk.

    The state before it is undamaged, and the same command resumes from it when there is room.
    """
    words = ["train", "digits", "--steps", 2, "--out", "run", *small, "--sample.count", 0]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, hard))  # the model fits, a training state does not
        said = fromnoise(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert said.code == 2 and "Traceback" not in said.err
    errors = [line for line in said.err.splitlines() if line.startswith("fromnoise:")]
    assert len(errors) == 1 and "cannot write" in errors[0] and "000000002" in errors[0]
    assert said.err.endswith(errors[0] + "\n")
    run = tmp_path / "run"
    assert [p.name for p in (run / "state").glob("*.safetensors")] == ["000000000.safetensors"]
    assert checkpoint.read(run / "state" / "000000000.safetensors")[1]["progress"]["step"] == 0
    assert checkpoint.load_model(run).progress == {"step": 0}
    assert not list(run.rglob("*.tmp"))
    right(*words)
    assert checkpoint.load_model(run).progress == {"step": 2}
    assert [r["step"] for r in reports(run)] == [1, 2]


def test_sampling_compiles_no_kernel(run, tmp_path):
    """The C kernel is compiled when training starts, not when sampling does."""
    process = ForkedCommand(["sample", run, "-n", 2, "--steps", 2, "--device", "cpu", "--out", "x.png"])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert (tmp_path / "x.png").exists() and not (tmp_path / "no-cache" / "kernels").exists()


# ---- dry runs and recipes


def test_dry_run_prints_the_recipe(right, small, tmp_path):
    """As TOML that reads back as the same recipe and trains; no directory is created."""
    said = right("train", "digits", "--steps", 2, *small, "--train.lr", "1e-3", "--dry-run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.toml").write_text(said.out)
    shown = recipes.load("mine.toml")
    assert shown.train.lr == 1e-3 and shown.train.steps == 2 and shown.network.width == 8
    asked = {"train.lr": 1e-3, "train.steps": 2}
    for key, value in zip(small[::2], small[1::2], strict=True):
        asked[key[2:]] = json.loads(value)
    assert shown == recipes.load("digits", asked)
    right("train", "mine.toml")
    assert recipes.load("runs/digits/recipe.toml") == shown
    assert checkpoint.load_model("runs/digits").progress == {"step": 2}


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (["--steps", 7], 7),
        (["--images", 20], 3),  # batches of 8
        (["--epochs", 0.01], 3),  # 17.07 of 1,707 images
        (["--train.epochs=2"], 427),  # 3,414 images
    ],
    ids=lambda b: str(b),
)
def test_dry_run_estimates_the_cost(right, small, budget, steps):
    """Parameters, images, steps, time and memory."""
    out = right("train", "digits", *budget, *small, "--dry-run").out
    assert f" {steps:,} steps, " in out
    for phrase in ("trainable parameters", "1x8x8", "1,707 training images, 90 held out", "a step", "MB of memory"):
        assert phrase in out


def test_budget_in_minutes(right, small, tmp_path):
    """The run ends when the time is used."""
    begun = time.monotonic()
    right("train", "digits", "--minutes", 0.01, "--out", "run", *small)
    assert time.monotonic() - begun < 60
    assert reports(tmp_path / "run")[-1]["budget_used"] == 1


def test_list_of_recipes(right, tmp_path):
    """All nine, each with its size and number of parameters, also as JSON."""
    said = right("recipes", "--json", "deep/recipes.json").out
    rows = json.loads((tmp_path / "deep" / "recipes.json").read_text())
    assert [r["name"] for r in rows] == recipes.names() and len(rows) == 14
    for row in rows:
        line = next(x for x in said.splitlines() if x.startswith(f"{row['name']} "))
        assert f"{row['parameters']:,} parameters" in line and row["size"] in line and row["parameters"] > 1000
        assert row["about"] in said and row["budget"] in line
    by_name = {r["name"]: r for r in rows}
    assert by_name["digits"]["size"] == "1x8x8"


def test_number_of_parameters(right, run, small):
    """The printed number is that of the weights in the file."""
    held = sum(t.numel() for t in weights(run).values())
    out = right("train", "digits", "--steps", 3, *small, "--dry-run").out
    assert f"# {held:,} trainable parameters" in out


# ---- show


def test_show_data(right, tmp_path, paint):
    """A grid of the images; a single image is written unchanged."""
    paint(tmp_path / "one", ["x.png"], 40, 50)
    right("show", "data", "one", "--out", "x.png")
    with Image.open("one/x.png") as a, Image.open("x.png") as b:
        assert (np.asarray(a) == np.asarray(b)).all()
    said = right("show", "data", "digits", "-n", 9, "--size", 16, "--out", "deep/y.png").out
    assert "1x16x16" in said and "1,707 training images" in said
    with Image.open("deep/y.png") as p:
        assert p.width == p.height


def test_show_forward(right, run, tmp_path, paint):
    """The forward process of a recipe, of a run, and of other data."""
    right("show", "forward", "digits", "-n", 3, "--out", "a.png")
    right("show", "forward", run, "-n", 3, "--out", "b.png")
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert a.size == b.size and a.width > a.height
        assert (np.asarray(a) == np.asarray(b)).all()
    paint(tmp_path / "mine", ["x.png", "y.png"], 40, 50)
    right("show", "forward", "digits", "--data", "mine", "--out", "c.png")
    with Image.open("c.png") as c:
        assert c.width >= 9 * 50
