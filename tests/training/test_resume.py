"""After a kill at any moment, or damage to a file, the same command resumes as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from fromnoise import checkpoint
from fromnoise.config import to_toml
from fromnoise.training.distillation import distillation_recipe

STEPS = 160


def last_state(out):
    """Tensors and header of the newest training state, without the time."""
    path = sorted((out / "state").glob("*.safetensors"))[-1]
    tensors, header = checkpoint.read(path)
    header["progress"].pop("seconds")
    return tensors, header


def newest_step(out):
    """The step of the newest training state on the disk, -1 if there is none."""
    return max((int(p.stem) for p in (out / "state").glob("0*.safetensors")), default=-1)


def reports_of(out):
    """The lines of reports.jsonl without the numbers that depend on the machine."""
    rows = [json.loads(line) for line in (out / "reports.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("timing")
    return rows


def assert_same_run(a, b):
    """Two finished runs have the same state, model and reports, bit for bit, but for the times."""
    one, other = last_state(a), last_state(b)
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][k], other[0][k]) for k in one[0])
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert reports_of(a) == reports_of(b)


def train(fork_command, out, *words, steps=STEPS, recipe="digits"):
    """Start a training process that saves its state every four steps."""
    words = ("--steps", str(steps), "--train.checkpoint_steps", "4", "--sample.count", "0", *words)
    return fork_command(out, *words, recipe=recipe)


def distilled_recipe(fork_command, folder):
    """The file of a recipe that distills a short run."""
    base = train(fork_command, folder / "base", steps=4)
    _, error = base.communicate(timeout=120)
    assert base.returncode == 0, error
    path = folder / "distilled.toml"
    path.write_text(to_toml(distillation_recipe(folder / "base", 2, {"train.steps": STEPS})))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "kills"),
    [
        ("digits", 5),
        pytest.param("autoencoder", 3, marks=pytest.mark.long),
        ("latent", 2),
        pytest.param("distilled", 3, marks=pytest.mark.long),
    ],
)
def test_killed_at_random_moments(tmp_path, fork_command, recipe, kills):
    """SIGKILL, which cannot be caught, while the run trains, reports or writes a checkpoint (HF#2606, DD#97).

    The first kill of a latent diffusion model falls into the training of its autoencoder.
    """
    if recipe == "distilled":
        recipe = distilled_recipe(fork_command, tmp_path)
    whole = train(fork_command, tmp_path / "whole", recipe=recipe)
    _, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    rng, out = random.Random(time.time_ns()), tmp_path / "killed"
    for kill in range(kills):
        folder = out / "autoencoder" if recipe == "latent" and kill == 0 else out
        process, since = train(fork_command, out, recipe=recipe), newest_step(folder)
        goal, deadline = max(since, 0) + 1 + rng.randrange(STEPS // 16), time.monotonic() + 120
        while newest_step(folder) < goal or not (folder / "log").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: raise STEPS"
    assert 0 < newest_step(out) < STEPS
    process = train(fork_command, out, recipe=recipe)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert_same_run(tmp_path / "whole", out)


def test_larger_budget_and_damaged_state(tmp_path, fork_command):
    """12 steps and 8 more equal 20 steps, also if a flipped bit in the newest state makes the one before it count."""
    for out, steps in (("whole", 20), ("parts", 12)):
        process = train(fork_command, tmp_path / out, "--train.decay", "constant", steps=steps)
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    out = tmp_path / "parts"
    newest = sorted((out / "state").glob("*.safetensors"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 4
    newest.write_bytes(data)
    (out / "state" / ".000000009.safetensors.77.tmp").write_bytes(b"half")  # as a killed process leaves it
    with open(out / "reports.jsonl", "a") as f:
        f.write('{"step": 12, "lo')
    process = train(fork_command, out, "--train.decay", "constant", steps=20)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    log = (out / "log").read_text()
    assert newest.name in log and "damaged" in log and "resuming from step 8" in log
    assert last_state(out)[0].keys() == last_state(tmp_path / "whole")[0].keys()
    a, b = last_state(out), last_state(tmp_path / "whole")
    assert all(torch.equal(a[0][k], b[0][k]) for k in a[0])
    assert not list((out / "state").glob("*.tmp"))


def test_signals_save_a_checkpoint(tmp_path, fork_command):
    """SIGINT and SIGTERM end the run after the current step, with a checkpoint and exit codes 130 and 143."""
    for number in (signal.SIGINT, signal.SIGTERM):
        out = tmp_path / str(number)
        process = train(fork_command, out, steps=100_000)
        deadline = time.monotonic() + 120
        while not list((out / "state").glob("0*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 128 + number, error
        assert "run the same command to resume" in error and "Traceback" not in error
        tensors, header = last_state(out)
        assert f"stopped at step {header['progress']['step']:,}" in error
        assert load_file(out / "model.safetensors")


def test_all_states_damaged(tmp_path, fork_command):
    """An error; the run is not restarted over the trained model."""
    out = tmp_path / "run"
    process = train(fork_command, out, steps=8)
    assert process.wait(timeout=120) == 0
    model, reports = (out / "model.safetensors").read_bytes(), (out / "reports.jsonl").read_bytes()
    for state in (out / "state").glob("*.safetensors"):
        state.write_bytes(state.read_bytes()[:-7])
    for _ in range(2):
        process = train(fork_command, out, steps=16)
        _, error = process.communicate(timeout=120)
        assert process.returncode == 2 and "are damaged" in error and "Traceback" not in error
    assert (out / "model.safetensors").read_bytes() == model and (out / "reports.jsonl").read_bytes() == reports


def test_images_of_another_shape(tmp_path, fork_command):
    """A run cannot be resumed with them."""
    out = tmp_path / "run"
    assert train(fork_command, out, steps=4).wait(timeout=120) == 0
    for state in (out / "state").glob("*.safetensors"):
        tensors, header = checkpoint.read(state)
        header["dataset"]["shape"] = [1, 9, 9]
        checkpoint.write(state, tensors, {k: v for k, v in header.items() if k not in ("format", "version")})
    process = train(fork_command, out, steps=8)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2 and "shape (1, 9, 9), not (1, 8, 8)" in error


def test_one_process_trains_in_a_directory(tmp_path, fork_command):
    """A second one is refused while the first trains."""
    out = tmp_path / "run"
    first = train(fork_command, out, steps=100_000)
    deadline = time.monotonic() + 120
    while newest_step(out) < 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    second = train(fork_command, out, steps=100_000)
    _, error = second.communicate(timeout=60)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert second.returncode == 2 and "another process is training" in error
    assert first.returncode == 143
