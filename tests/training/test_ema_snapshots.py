"""Averages of any width from snapshots: profiles, weights, files, and runs that are interrupted."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from forked import ForkedCommand
from fromnoise import checkpoint
from fromnoise.config import EMAConfig
from fromnoise.training.ema import EMA
from fromnoise.training.ema_snapshots import (
    FOLDER,
    Snapshots,
    drop_later,
    inner_product,
    reconstruction_weights,
    snapshot_files,
)
from fromnoise.training.power_average import power_function_exponent
from fromnoise.utils.errors import UserError


class Walk(nn.Module):
    """Parameters that move towards a point with noise, as those of a network do."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(300))
        self._goal, self._noise = torch.randn(300), torch.Generator().manual_seed(1)

    def move(self) -> None:
        with torch.no_grad():
            self.w += 0.01 * (self._goal - self.w) + 0.01 * torch.randn(300, generator=self._noise)


def profile(exponent: float, time: float, u: np.ndarray) -> np.ndarray:
    """(g + 1) u^g / t^(g + 1) up to time t."""
    return np.where(u <= time, (exponent + 1) * u**exponent / time ** (exponent + 1), 0.0)


@pytest.mark.parametrize(("a", "s", "b", "t"), [(3.0, 0.5, 7.0, 1.0), (7.0, 0.5, 3.0, 1.0), (2.0, 0.8, 2.0, 0.3)])
def test_inner_product_is_the_integral(a, s, b, t):
    """By the midpoint rule."""
    u = (np.arange(200_000) + 0.5) / 200_000
    integral = float((profile(a, s, u) * profile(b, t, u)).mean())
    assert inner_product(a, s, b, t) == pytest.approx(integral, rel=1e-4)


def test_weights_are_the_nearest_combination_of_profiles():
    """A stored profile is found; another one is as near as its distance says, and no small change is nearer."""
    stored = [(width, step) for step in (25.0, 50.0, 75.0, 100.0) for width in (0.05, 0.1)]
    exact, missed = reconstruction_weights(stored, 0.1, 100.0)
    assert np.allclose(exact, np.eye(8)[7], atol=1e-6) and missed < 1e-6
    found, missed = reconstruction_weights(stored, 0.15, 100.0)
    u = (np.arange(100_000) + 0.5) / 1_000
    wanted = profile(power_function_exponent(0.15), 100.0, u)
    each = np.stack([profile(power_function_exponent(w), t, u) for w, t in stored])
    distance = np.linalg.norm(found @ each - wanted) / np.linalg.norm(wanted)
    assert distance == pytest.approx(missed, rel=1e-2) and 0.01 < missed < 0.2
    for i in range(8):
        for change in (-1e-2, 1e-2):
            assert np.linalg.norm((found + change * np.eye(8)[i]) @ each - wanted) > distance * np.linalg.norm(wanted)


def test_reconstructed_averages_are_those_kept_directly(tmp_path):
    """To 1 % of the weights, at widths that are not stored, from eight snapshots in float16."""
    network, widths = Walk(), (0.05, 0.06, 0.08, 0.12)
    ema = EMA(EMAConfig(decays=(), widths=widths, snapshots=8, snapshot_every=8), network)
    for step in range(1, 801):
        network.move()
        ema.update(step, 0.0)
        if step % 100 == 0:
            assert ema.snapshots is not None
            ema.snapshots.save(tmp_path)
    found = Snapshots(tmp_path)
    assert found.step == 793 and len(found.profiles) == 16 and found.bytes < 8 * (2 * 2 * 300 + 1000)
    for i, width in enumerate(widths):
        direct, (average, missed) = ema.parameters(i)["w"], found.average(width)
        assert float((average["w"] - direct).norm() / direct.norm()) < 0.01
        assert missed < 0.02
    assert float((network.w.detach() - ema.parameters(3)["w"]).norm() / network.w.detach().norm()) > 0.04


def test_interrupted_run_has_the_same_snapshots(make, tmp_path):
    """The averages are part of the state, and augmentation depends on the position; later snapshots are dropped."""
    options = {"ema_snapshots": 3, "ema_snapshot_every": 2, "data_augmentation": "edm"}
    whole, parts = make(**options), make(**options)
    steps = [report.step for report in whole.run()]
    assert steps == list(range(1, 13)) and whole.ema.snapshots.step == 11
    for report in parts.run():
        if report.step == 7:
            break
    tensors, header = parts.state()
    resumed = make(**options)
    resumed.resume({name: t.clone() for name, t in tensors.items()}, header)
    list(resumed.run())
    files = [loop.ema.snapshots.save(tmp_path / name) for name, loop in (("a", whole), ("b", resumed))]
    assert files[0].name == "000000011.safetensors" and files[0].read_bytes() == files[1].read_bytes()
    assert all(t.dtype == torch.float16 for t in checkpoint.read(files[0])[0].values())
    parts.ema.snapshots.save(tmp_path / "a")
    drop_later(tmp_path / "a", 7)
    assert list(snapshot_files(tmp_path / "a")) == [7]


@pytest.mark.slow
def test_snapshots_of_a_run_that_is_killed(fork_command, tmp_path):
    """The same files as without the kill, each whole."""
    words = ("--steps", "24", "--ema.snapshots", "8", "--ema.snapshot_every", "3", "--train.checkpoint_steps", "7")

    def start(name: str) -> ForkedCommand:
        return fork_command(tmp_path / name, *words, "--sample.count", "0")

    process = start("whole")
    assert process.wait(120) == 0, process.communicate()
    process = start("killed")
    while process.poll() is None and len(snapshot_files(tmp_path / "killed")) < 3:
        time.sleep(0.005)
    process.kill()
    process.wait(60)
    process = start("killed")
    assert process.wait(120) == 0, process.communicate()
    whole, killed = (sorted((tmp_path / name / FOLDER).iterdir()) for name in ("whole", "killed"))
    assert len(whole) == 8 and [p.name for p in whole] == [p.name for p in killed]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(whole, killed, strict=True))


def test_runs_without_snapshots_and_damaged_ones(tmp_path):
    """One line each."""
    with pytest.raises(UserError, match=r"no snapshots of averages: train it with --ema\.snapshots 8"):
        Snapshots(tmp_path)
    ema = EMA(EMAConfig(snapshots=1), Walk())
    assert ema.snapshots is not None
    ema.update(1, 0.0)
    path = ema.snapshots.save(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged"):
        Snapshots(tmp_path).average(0.1)
    tensors = {"0.w": torch.zeros(3)}
    for header in (
        {"kind": "model"},
        {"kind": "snapshot", "step": 1, "widths": ["x"]},
        {"kind": "snapshot", "step": 1, "widths": 3},
    ):
        checkpoint.write(path, tensors, header)
        with pytest.raises(UserError, match="is not a snapshot of averages"):
            Snapshots(tmp_path)
