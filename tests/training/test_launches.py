"""Commands in several processes: ranks with other recipes or images, and torchrun's own restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fromnoise import checkpoint
from ranks import free_port, rank_variables


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recipe", "data"])
def test_ranks_with_other_recipes_or_images(fork_command, tmp_path, kind):
    """Both end in time; one line names the first difference, and nothing is trained."""
    for rank in range(2):
        images = np.full((40, 8, 8), rank, np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None]
        np.savez(tmp_path / f"{rank}.npz", images=images)
    port, begin = free_port(), time.monotonic()
    found = []
    for rank in range(2):
        other = ["--train.lr", f"{rank + 1}e-3"] if kind == "recipe" else ["--data", str(tmp_path / f"{rank}.npz")]
        variables = rank_variables(rank, 2, port)
        found.append(fork_command(tmp_path / "run", "--steps", "4", *other, **variables))
    errors = [process.communicate(timeout=120)[1] for process in found]
    assert [process.returncode for process in found] == [2, 2], errors
    lines = [line for line in "".join(errors).splitlines() if line.startswith("fromnoise:")]
    assert len(lines) == 1, lines
    named = "train.lr 0.002, but rank 0 on" if kind == "recipe" else "the fingerprint of the data"
    assert "rank 1 on" in lines[0] and named in lines[0]
    assert "Traceback" not in "".join(errors) and time.monotonic() - begin < 60
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_torchrun_restarts_from_the_last_state(run_command, tmp_path):
    """A rank is killed; ``--max-restarts`` goes on, to the weights of one process."""
    command, environment = run_command
    words = ["--steps", "200", "--train.checkpoint_steps", "10", "--network.dropout", "0", "--precision", "fp32"]
    one = subprocess.run(command(tmp_path / "one", *words), env=environment(), capture_output=True, text=True)
    assert one.returncode == 0, one.stderr
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--nproc_per_node", "2", "--max-restarts", "2"]
    torchrun += ["--master_port", str(free_port())]
    process = subprocess.Popen(
        [*torchrun, *command(tmp_path / "two", *words)[1:]], env=environment(), stderr=subprocess.PIPE, text=True
    )
    states, end = tmp_path / "two" / "state", time.monotonic() + 120
    while not any(int(p.stem) >= 20 for p in states.glob("0*.safetensors")):
        assert time.monotonic() < end
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "resuming from step" in error and error.count("lost the connection") <= 1
    found = [checkpoint.read(max((tmp_path / name / "state").glob("0*.safetensors")))[0] for name in ("one", "two")]
    for key, tensor in found[0].items():
        if key.startswith(("model.", "ema.")):
            assert float((tensor - found[1][key]).abs().max()) < 1e-5 * max(1.0, float(tensor.abs().max())), key
            assert bool(torch.isfinite(tensor).all())
