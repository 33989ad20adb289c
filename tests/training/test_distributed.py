"""Training in two processes equals training in one."""

from __future__ import annotations

import subprocess

import pytest
import torch

from forked_python import python
from fromnoise import checkpoint
from ranks import free_port, rank_variables


def words_of(recipe: str) -> tuple[str, ...]:
    """Flags of ten steps with two averages."""
    options = ("--steps", "10", "--network.dropout", "0", "--ema.decays", "[0.9, 0.5]", "--train.batch", "16")
    own = ("--data.pseudo_labels", "8") if recipe == "digits" else ("--ema.widths", "[]")
    return (*options, *own, "--precision", "fp32")


def last_state(out):
    """The training state of step 10."""
    (state,) = [p for p in (out / "state").glob("*.safetensors") if int(p.stem) == 10]
    return checkpoint.read(state)


def train(fork_command, out, recipe="digits", world=1):
    """Train ten steps in one process, or in ranks as a launcher starts them; the last training state."""
    port = free_port()
    ranks = [rank_variables(rank, world, port) if world > 1 else {} for rank in range(world)]
    found = [fork_command(out, *words_of(recipe), recipe=recipe, **variables) for variables in ranks]
    errors = [process.communicate(timeout=300)[1] for process in found]
    assert [process.returncode for process in found] == [0] * world, errors
    return last_state(out)


def launch(run_command, out, launcher):
    """``train`` in two processes of a launcher, which starts ``python()``."""
    command, environment = run_command
    full = [python(), "-m", *launcher, *command(out, *words_of("digits"))[1:]]
    variables = environment() | {"PYTHON_EXEC": python()}
    done = subprocess.run(full, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return last_state(out)


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"],
    "accelerate launch": [
        *("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29612"),
    ],
}


@pytest.mark.slow
def test_two_processes_train_latents_as_one_does(tmp_path, fork_command):
    """The autoencoder, the statistics of its latents and the diffusion model."""
    one, _ = train(fork_command, tmp_path / "one", "latent")
    two, _ = train(fork_command, tmp_path / "two", "latent", world=2)
    assert one.keys() == two.keys() and "model.latent_space.deviation" in one
    for key in one:
        assert (one[key] - two[key]).abs().max() < 1e-3 * max(1.0, float(one[key].abs().max())), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchrun", pytest.param("accelerate launch", marks=pytest.mark.long)])
def test_two_processes_equal_one_with_the_same_batch(name, tmp_path, run_command, fork_command):
    """Weights, averages and moments to float32 accuracy; one checkpoint, one log; either can resume (DD#80)."""
    one, header = train(fork_command, tmp_path / "one")
    two, header_two = launch(run_command, tmp_path / "two", LAUNCHERS[name])
    assert one.keys() == two.keys() and any(k.startswith("ema.1.") for k in one)
    weights = torch.cat([v.flatten() for k, v in one.items() if k.startswith("model.")])
    for key in one:
        assert (one[key] - two[key]).abs().max() < 2e-4 * max(1.0, float(one[key].abs().max())), key
    assert float(weights.abs().max()) > 0.1
    for each in (header, header_two):
        each["progress"].pop("seconds")
    assert header["progress"]["loss_sum"] == pytest.approx(header_two["progress"].pop("loss_sum"), rel=1e-5)
    assert header["progress"]["step"] == header_two["progress"]["step"] == 10
    assert (tmp_path / "two" / "log").read_text().count("1,707 training images") == 1
    assert len(list((tmp_path / "two" / "state").glob("*.safetensors"))) <= 2
    more, _ = train(fork_command, tmp_path / "two")  # one process in the same directory: nothing left to do
    assert all(torch.equal(more[k], two[k]) for k in two)


def test_another_device_in_the_same_program(monkeypatch) -> None:
    """Accelerate alone refuses another device; here its first one seems to be a GPU."""
    from accelerate.state import AcceleratorState, PartialState

    from fromnoise.training.distributed import make_accelerator

    make_accelerator(cpu=True)
    monkeypatch.setitem(AcceleratorState._shared_state, "device", torch.device("cuda"))
    monkeypatch.setitem(PartialState._shared_state, "_cpu", False)
    assert make_accelerator(cpu=True).device.type == "cpu"
