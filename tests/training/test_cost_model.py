"""The arithmetic of benchmarks/cost_model.py against files, and against a ring that is played through."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import cost_model  # pyright: ignore[reportMissingImports]


def test_state_has_as_many_bytes(make):
    """But for counters, and for the buffers of the network."""
    loop = make(steps=1, ema_decays=[0.9, 0.5], ema_widths=[])
    for _ in loop.run():
        pass
    tensors, _ = loop.state()
    found = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert found == pytest.approx(cost_model.state_bytes(loop.model.parameters, 2), rel=0.01)


@pytest.mark.parametrize("size", [1, 384, 512, 513, 3200])
def test_shard_has_as_many_bytes(size):
    """Beside the end of the archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for i in range(3):
            for name, length in ((f"{i}.npy", size), (f"{i}.cls", 1)):
                info = tarfile.TarInfo(name)
                info.size = length
                archive.addfile(info, io.BytesIO(bytes(length)))
        end = archive.offset
    assert end == 3 * cost_model.shard_bytes(size)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ring_sends_as_many_bytes(world):
    """A ring all-reduce of a chunk for each rank: every rank ends with the sum, and what it has sent is counted."""
    parameters = 120
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, (world, world, parameters // world)).astype(np.float32)
    expected, held, sent = values.sum(0), values.copy(), [0] * world
    for phase in ("reduce", "gather"):
        for step in range(world - 1):
            chunks = [(rank - step + (phase == "gather")) % world for rank in range(world)]
            messages = [held[rank, chunk].copy() for rank, chunk in enumerate(chunks)]
            for rank, (chunk, message) in enumerate(zip(chunks, messages, strict=True)):
                to = (rank + 1) % world
                held[to, chunk] = held[to, chunk] + message if phase == "reduce" else message
                sent[rank] += message.nbytes
    assert all(np.array_equal(each, expected) for each in held)
    assert set(sent) == {round(cost_model.ddp_sent(parameters, world))}


def test_table_is_printed(monkeypatch, capsys):
    """With a line for each quantity, for one host as well."""
    words = ["--recipe", "digits", "--side", "8", "--nodes", "1", "--gpus", "1", "--images", "1000"]
    monkeypatch.setattr(sys, "argv", ["cost_model.py", *words])
    cost_model.main()
    printed = capsys.readouterr().out
    assert "| its time, FSDP | 0 GB / 50 GB/s | 0 ms |" in printed
    assert "| order of two epochs, a process | 8 B x images x 2, or none | 1.6e-05 GB |" in printed
