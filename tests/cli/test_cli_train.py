"""Training from the command line: what a run leaves, how it goes on, how it ends."""

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

from fromnoise import checkpoint
from fromnoise import config as recipes

LEFT = {"recipe.toml", "reports.jsonl", "model.safetensors", "log", "samples.png", "reverse.gif", "reverse.png"}


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


# ---- what a run leaves


def test_what_a_run_leaves(run):
    """Everything that the summary promises, and no temporary file."""
    assert {p.name for p in run.iterdir()} == LEFT | {"forward.png", "loss.png", "samples", "state"}
    assert [p.name for p in (run / "samples").iterdir()] == ["first_batch.png"]
    for picture in [*run.glob("*.png"), *run.glob("*.gif"), *run.glob("samples/*.png")]:
        with Image.open(picture) as p:
            p.load()
            assert len(np.unique(np.asarray(p.convert("L")))) > 2
    assert 1 <= len(list((run / "state").glob("*.safetensors"))) <= 2
    assert checkpoint.load_model(run).progress == {"step": 3}


def test_the_reports(run):
    """Lines of JSON, in order, up to the last step; held-out losses on the way."""
    lines = reports(run)
    assert [r["step"] for r in lines] == sorted({r["step"] for r in lines})
    assert lines[-1]["step"] == 3 and lines[-1]["images"] == 24 and lines[-1]["progress"] == 1
    assert all(r["loss"] > 0 and r["clock"]["seconds"] >= 0 for r in lines)
    assert lines[-1]["held_out"] > 0 and len(lines[-1]["loss_by_t"]) == 10


def test_the_recipe_of_a_run(run, small):
    """Reads back as what was asked for."""
    kept = recipes.load(str(run / "recipe.toml"))
    assert kept.name == "digits" and kept.train.steps == 3 and kept.train.minutes is None
    assert kept.network.width == 8 and kept.network.multipliers == (1,) and kept.network.attention_resolutions == ()


def test_previews(right, small, tmp_path):
    """Raw and averaged weights side by side, at the start and on the way."""
    right("train", "digits", "--steps", 2, "--out", "run", *small, "--train.previews", 2)
    names = sorted(p.name for p in (tmp_path / "run" / "samples").glob("step_*.png"))
    assert names == [f"step_{i:08d}.png" for i in (0, 1, 2)]


# ---- going on


def test_the_same_command_goes_on(right, small, tmp_path):
    """With a larger budget: three and two steps are five, bit for bit, and so are the reports."""
    words = ["train", "digits", *small, "--train.decay", "constant", "--train.report_every", 1]
    right(*words, "--steps", 3, "--out", "a")
    said = right(*words, "--steps", 5, "--out", "a").err
    assert "going on from step 3" in said
    right(*words, "--steps", 5, "--out", "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    a, b = ([(r["step"], r["loss"], r["lr"]) for r in reports(tmp_path / name)] for name in "ab")
    assert a == b and len(a) == 5


def test_a_finished_run_is_finished(right, small, tmp_path):
    """The same command trains no further, and leaves weights and reports as they are."""
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


def test_a_damaged_state_is_named_and_the_one_before_is_taken(right, small, tmp_path):
    """The run goes on from there."""
    words = ["train", "digits", "--out", "run", *small, "--train.checkpoint_steps", 1]
    right(*words, "--steps", 3)
    newest = max((tmp_path / "run" / "state").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    said = right(*words, "--steps", 4)
    assert "going on from step 2" in said.err
    assert newest.name in (tmp_path / "run" / "log").read_text()
    assert checkpoint.load_model(tmp_path / "run").progress == {"step": 4}


# ---- how it ends


def signalled(run, number, *words, call):
    """Call in this process, with a signal as soon as the run has begun to train."""
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
def test_a_signal_leaves_a_checkpoint(fromnoise, right, small, tmp_path, number):
    """The code is 128 + its number, and the same command goes on from that very step."""
    run = tmp_path / "run"
    words = ["train", "digits", "--out", "run", *small]
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    said = signalled(run, number, *words, "--steps", 10**6, call=fromnoise)
    assert said.code == 128 + number and "Traceback" not in said.err
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    step = checkpoint.load_model(run).progress["step"]
    assert step >= 1 and f"stopped at step {step:,}" in said.err
    said = right(*words, "--steps", step + 2)
    assert f"going on from step {step:,}" in said.err
    assert reports(run)[-1]["step"] == step + 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_same_command_after_a_signal(spawn, small, tmp_path):
    """In a process of its own, literally the same, twice: after SIGINT, then after SIGTERM."""
    steps = [0]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = spawn("train", "digits", "--steps", 10**6, "--out", "run", *small)
        begun, run, log = time.monotonic(), tmp_path / "run", tmp_path / "run" / "log"
        while not (run / "model.safetensors").exists() or (steps[-1] and "going on" not in log.read_text()):
            assert process.poll() is None and time.monotonic() - begun < 120
            time.sleep(0.05)
        time.sleep(2)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code and "Traceback" not in err
        steps.append(checkpoint.load_model(tmp_path / "run").progress["step"])
        assert steps[-1] > steps[-2]
    assert f"going on from step {steps[1]:,}" in log.read_text()


def test_a_full_disk(fromnoise, right, small, tmp_path):
    """A state that cannot be written (a limit on the size of files stands for a full disk): one line and code 2.

    The state before it is whole, and with room the same command goes on from it.
    """
    words = ["train", "digits", "--steps", 2, "--out", "run", *small, "--sample.count", 0]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, hard))  # weights fit, with two moments they do not
        said = fromnoise(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert said.code == 2 and "Traceback" not in said.err
    told = [line for line in said.err.splitlines() if line.startswith("fromnoise:")]
    assert len(told) == 1 and "cannot write" in told[0] and "000000002" in told[0] and said.err.endswith(told[0] + "\n")
    run = tmp_path / "run"
    assert [p.name for p in (run / "state").glob("*.safetensors")] == ["000000000.safetensors"]
    assert checkpoint.read(run / "state" / "000000000.safetensors")[1]["progress"]["step"] == 0
    assert checkpoint.load_model(run).progress == {"step": 0}
    assert not list(run.rglob("*.tmp"))
    right(*words)
    assert checkpoint.load_model(run).progress == {"step": 2}
    assert [r["step"] for r in reports(run)] == [1, 2]


# ---- the recipe, shown


def test_a_dry_run_prints_the_recipe(right, small, tmp_path):
    """As TOML that reads back as the same recipe and trains; no folder is made."""
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
def test_a_dry_run_tells_the_cost(right, small, budget, steps):
    """Parameters, images, steps, time and memory."""
    out = right("train", "digits", *budget, *small, "--dry-run").out
    assert f" {steps:,} steps, " in out
    for told in ("trainable parameters", "1x8x8", "1,707 training images, 90 held out", "a step", "MB of memory"):
        assert told in out


def test_minutes(right, small, tmp_path):
    """A budget of time ends when it is used."""
    begun = time.monotonic()
    right("train", "digits", "--minutes", 0.01, "--out", "run", *small)
    assert time.monotonic() - begun < 60
    assert reports(tmp_path / "run")[-1]["progress"] == 1


def test_the_list_of_recipes(right, tmp_path):
    """All nine, each with its size and number of parameters, also as JSON."""
    said = right("recipes", "--json", "deep/recipes.json").out
    rows = json.loads((tmp_path / "deep" / "recipes.json").read_text())
    assert [r["name"] for r in rows] == recipes.names() and len(rows) == 11
    for row in rows:
        line = next(x for x in said.splitlines() if x.startswith(f"{row['name']} "))
        assert f"{row['parameters']:,} parameters" in line and row["size"] in line and row["parameters"] > 1000
        assert row["about"] in said and row["budget"] in line
    by_name = {r["name"]: r for r in rows}
    assert by_name["digits"]["size"] == "1x8x8"


def test_the_printed_number_of_parameters(right, run, small):
    """Is what the file holds."""
    held = sum(t.numel() for t in weights(run).values())
    out = right("train", "digits", "--steps", 3, *small, "--dry-run").out
    assert f"# {held:,} trainable parameters" in out


# ---- looking


def test_show_data(right, tmp_path, paint):
    """A grid of the images: of one picture, the picture."""
    paint(tmp_path / "one", ["x.png"], 40, 50)
    right("show", "data", "one", "--out", "x.png")
    with Image.open("one/x.png") as a, Image.open("x.png") as b:
        assert (np.asarray(a) == np.asarray(b)).all()
    said = right("show", "data", "digits", "-n", 9, "--size", 16, "--out", "deep/y.png").out
    assert "1x16x16" in said and "1,707 training images" in said
    with Image.open("deep/y.png") as p:
        assert p.width == p.height


def test_show_forward(right, run, tmp_path, paint):
    """Of a recipe, of a run and of other data: from the images to noise."""
    right("show", "forward", "digits", "-n", 3, "--out", "a.png")
    right("show", "forward", run, "-n", 3, "--out", "b.png")
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert a.size == b.size and a.width > a.height
        assert (np.asarray(a) == np.asarray(b)).all()
    paint(tmp_path / "mine", ["x.png", "y.png"], 40, 50)
    right("show", "forward", "digits", "--data", "mine", "--out", "c.png")
    with Image.open("c.png") as c:
        assert c.width >= 9 * 50
