"""Sampling that is interrupted, or shared by several processes, gives the samples of one process."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest

from forked import ForkedCommand
from fromnoise.pipeline import sampling_run
from fromnoise.pipeline.sample_parts import SampleParts

WORDS = ("-n", 10, "--batch", 3, "--steps", 4, "--precision", "fp32", "--device", "cpu", "--label", "all")


def images(path: Path) -> tuple[np.ndarray, list[int]]:
    """Images and labels of a .npz."""
    with np.load(path) as file:
        return file["images"], file["labels"].tolist()


@pytest.fixture
def whole(right, told_run, tmp_path):
    """Ten samples in one batch."""
    right("sample", told_run, *WORDS, "--batch", 10, "--out", "whole.npz")
    return images(tmp_path / "whole.npz")


def near(a, b) -> bool:
    """At most one grey level apart: sums of floats may be taken in another order."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b).max()) <= 1


def test_batches_are_merged(right, told_run, tmp_path, whole):
    """In order, with their labels; nothing else is left."""
    right("sample", told_run, *WORDS, "--out", "out/x.npz", "--gif", "x.gif")
    found = images(tmp_path / "out" / "x.npz")
    assert near(found[0], whole[0]) and found[1] == whole[1] and (tmp_path / "x.gif").exists()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x.npz"]


def test_an_interrupted_command_goes_on(right, fromnoise, told_run, tmp_path, whole, monkeypatch):
    """With the batch after the last finished one; a damaged part is sampled again, another command has other parts."""
    taken, original = [], sampling_run.SamplingRun.steps

    def steps(self, compute, batch=64):
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(self.noise.ids.tolist())
        return original(self, compute, batch)

    monkeypatch.setattr(sampling_run.SamplingRun, "steps", steps)
    words = ("sample", told_run, *WORDS, "--out", "x.npz")
    assert fromnoise(*words).code == 130
    assert not (tmp_path / "x.npz").exists() and taken == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    (folder,) = tmp_path.glob(".x.npz.*.parts")
    assert sorted(p.name for p in folder.glob("*.safetensors")) == [f"00000{i}.safetensors" for i in range(3)]
    (folder / "000001.safetensors").write_bytes(b"half")
    taken.clear()
    right(*words)
    assert taken == [[3, 4, 5], [9]] and not folder.exists()
    found = images(tmp_path / "x.npz")
    assert near(found[0], whole[0]) and found[1] == whole[1]
    command = {"seed": "0"}
    assert SampleParts(tmp_path / "a", command).folder != SampleParts(tmp_path / "a", {"seed": "1"}).folder


def test_the_same_command_twice_at_once(wrong, told_run, tmp_path, monkeypatch):
    """The second is refused while the first runs."""
    first = SampleParts(tmp_path / "x.npz", {})
    first.open()
    monkeypatch.setattr(SampleParts, "__init__", lambda self, *a: vars(self).update(vars(first) | {"_lock": None}))
    wrong("sample", told_run, *WORDS, "--out", "x.npz", message="another process is writing", notes=True, touched=True)
    first.remove()
    first.close()
    assert not first.folder.exists()


def test_an_interrupted_evaluation_goes_on(right, fromnoise, run, tmp_path, monkeypatch):
    """It samples what is missing only, with the numbers and the cost of an undisturbed one; nothing is left."""
    words = ("evaluate", run, "-n", 40, "--batch", 10, "--features", "pixels", "--bits", 0, "--device", "cpu")
    words += ("--precision", "fp32")
    before = {p.name for p in run.iterdir()}
    right(*words, "--out", "whole", "--json", "whole.json")
    taken, original = [], sampling_run.SamplingRun.steps

    def steps(self, compute, batch=64):
        ids = self.noise.ids.tolist()
        if ids[:1] == [20] and not taken:
            taken.append("interrupted")
            raise KeyboardInterrupt
        if taken and len(ids) == 10:
            taken.append(ids[0])
        return original(self, compute, batch)

    monkeypatch.setattr(sampling_run.SamplingRun, "steps", steps)
    monkeypatch.setattr("fromnoise.evaluation.model_source.ModelSource.estimated_seconds", lambda self: 0.0)
    assert fromnoise(*words, "--out", "again").code == 130
    (folder,) = tmp_path.glob(".again.*.parts")
    assert len(list(folder.glob("*.safetensors"))) == 2
    right(*words, "--out", "again", "--json", "again.json")
    assert taken == ["interrupted", 20, 30] and not folder.exists()
    files = [tmp_path / f"{name}.json" for name in ("whole", "again")]
    (whole,), (again,) = (json.loads(path.read_text())["evaluations"] for path in files)
    assert whole["frechet"]["value"] == pytest.approx(again["frechet"]["value"], rel=1e-6)
    assert whole["cost"]["nfe"] == again["cost"]["nfe"] == 2 and {p.name for p in run.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_share_the_batches(right, told_run, tmp_path, world):
    """Bit for bit the samples of one process; ranks with other flags are named."""
    right("sample", told_run, *WORDS, "--out", "one.npz")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(rank: int, *more: str) -> ForkedCommand:
        variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_PORT": port}
        environment = {key: str(value) for key, value in variables.items()}
        environment |= {"MASTER_ADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": ""}
        return ForkedCommand(["sample", told_run, *WORDS, "--out", tmp_path / "all.npz", *more], environment)

    found = [start(rank) for rank in range(world)]
    errors = [process.communicate(timeout=120)[1] for process in found]
    assert [process.returncode for process in found] == [0] * world, errors
    (one, labels), (together, same) = images(tmp_path / "one.npz"), images(tmp_path / "all.npz")
    assert np.array_equal(one, together) and labels == same
    assert not list(tmp_path.glob(".all*"))
    if world == 2:
        found = [start(rank, "--seed", str(rank)) for rank in range(world)]
        errors = [process.communicate(timeout=120)[1] for process in found]
        assert [process.returncode for process in found] == [2, 2], errors
        assert "rank 1 on" in errors[0] and "has seed 1, but rank 0 on" in errors[0]
        assert "Traceback" not in "".join(errors)
