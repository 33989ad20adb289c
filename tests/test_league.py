"""The league of libraries: its clock, its file of results, its tables, and every entry for two steps."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import league  # noqa: E402
from peers import ENTRIES  # noqa: E402
from peers.common import Budget, Task, crop, with_weights  # noqa: E402


def run(entry: str, seed: int, frechet: float, **changes: object) -> dict:
    """A finished run."""
    distances = {"frechet": frechet, "frechet_error": 0.1, "kernel": 5.0, "kernel_error": 1.0}
    figures = {"steps": 100, "images": 6400, "seconds": 60.0, "parameters": 1_000_000, "precision": "fp32"}
    figures |= {"sampler": "DDIM, 50 steps", "nfe": 50.0, "sampling_seconds": 9.0, "accuracy": 0.9, "header": "here"}
    wanted = {"entry": entry, "data": "cifar10", "minutes": 10.0, "threads": 1, "seed": seed, "n": 64}
    return wanted | figures | distances | {"real_vs_real": distances | {"frechet": 0.5}} | changes


class Steps(Budget):
    """A clock that counts steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(60.0)
        self._steps, self._asked = steps, -1

    def left(self) -> bool:
        self._asked += 1
        self.used = self.seconds * min(1.0, self._asked / self._steps)
        return self._asked < self._steps


def test_batches_are_full_shuffled_padded_and_mirrored():
    pixels = torch.arange(10, dtype=torch.uint8)[:, None, None, None] * torch.ones(10, 1, 4, 4, dtype=torch.uint8)
    pixels[..., 0] = 255
    task = Task("cifar10", pixels, torch.arange(10))
    batches = task.batches(4, flip=True, side=6)
    seen = torch.cat([next(batches)[1] for _ in range(2)])
    assert len(seen.unique()) == 8  # two of ten are left over
    x, labels = next(batches)
    assert x.shape == (4, 1, 6, 6)
    assert bool((x[:, :, 0] == -1).all())
    torch.testing.assert_close((x[:, 0, 2, 2] + 1) * 127.5, labels.float())
    columns = torch.cat([next(batches)[0] for _ in range(20)])
    mirrored = columns[:, 0, 2, 4] == 1
    assert 0.3 < float(mirrored.float().mean()) < 0.7
    same = Task("fashion_mnist", pixels, torch.arange(10)).batches(4, flip=True)
    assert all(bool((next(same)[0][:, 0, :, 0] == 1).all()) for _ in range(20))
    torch.testing.assert_close(crop(x, 4), x[..., 1:5, 1:5])


def test_budget_starts_with_the_first_step(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    budget = Budget(10.0)
    now[0] = 150.0
    assert budget.left()
    now[0] = 155.0
    assert budget.left()
    assert budget.fraction == 0.5
    now[0] = 161.0
    assert not budget.left()
    assert budget.used == 11.0


def test_samplers_keep_their_weights():
    network = torch.nn.Linear(1, 1, bias=False)
    averaged = torch.nn.Linear(1, 1, bias=False)
    last = network.weight.item()

    def sample(count: int) -> torch.Tensor:
        return network.weight.detach().expand(count, 1)

    of_last, of_average = with_weights(network, None, sample), with_weights(network, averaged, sample)
    assert float(of_average(1)) == averaged.weight.item()
    assert float(of_last(1)) == last


def test_finished_runs_are_skipped_and_failed_ones_tried_again(tmp_path):
    path = tmp_path / "league.json"
    league.add(path, run("azula", 0, 9.0))
    league.add(path, run("azula", 1, 8.0, error="exit code 1"))
    wanted = [run("azula", seed, 0.0) for seed in (0, 1, 2)]
    assert [r["seed"] for r in league.missing(league.read(path), wanted)] == [1, 2]
    assert len(league.missing(league.read(path), wanted, again=True)) == 3
    league.add(path, run("azula", 1, 7.0))
    assert [r["frechet"] for r in league.read(path)] == [9.0, 7.0]
    assert league.missing(league.read(path), [run("azula", 0, 0.0, threads=2)])


def test_tables_take_the_best_entry_of_each_library():
    runs = [run("fromnoise", 0, 1.0), run("fromnoise", 1, 2.0), run("azula", 0, 5.0)]
    runs += [run("diffusers-course", 0, 4.0), run("diffusers-example", 0, 400.0), run("torchcfm", 0, 1, error="died")]
    text = league.tables(runs)
    best, others = text.split("Other entries:")
    assert [line.split(" | ")[1] for line in best.splitlines() if line.startswith("| ")][1:] == [
        "fromnoise",
        "diffusers-course",
        "azula",
    ]
    assert "1.50 +- 0.71" in best
    assert "fromnoise 1.00, diffusers 3.50, a ratio of 0.29" in best
    assert "diffusers-example" in others
    assert "torchcfm, cifar10, 10 minutes, seed 0: FAILED, died" in others
    page = league.into_page("a\n<!-- league: begin -->\nold\n<!-- league: end -->\nb\n", text)
    assert page == f"a\n<!-- league: begin -->\n{text}<!-- league: end -->\nb\n"


def test_the_page_holds_the_tables_of_the_file():
    page = (Path(__file__).parents[1] / "docs" / "results" / "league.md").read_text(encoding="utf-8")
    assert league.into_page(page, league.tables(league.read(league.RESULTS))) == page


def test_a_crash_is_reported(monkeypatch, tmp_path):
    """The child gets the options of its run, and its last line becomes the error."""
    seen = []

    def failing(command, **options):
        seen.append(command)
        return argparse.Namespace(returncode=1, stderr="Traceback\nValueError: no\n\n")

    monkeypatch.setattr(league.subprocess, "run", failing)
    args = argparse.Namespace(pictures=tmp_path)
    wanted = {"entry": "azula", "data": "cifar10", "minutes": 0.5, "threads": 1, "seed": 3, "n": 16}
    result = league.run_apart(wanted, args)
    assert result == wanted | {"error": "exit code 1: ValueError: no"}
    assert "FAILED" in league.describe(result)
    options = dict(zip(seen[0][5::2], seen[0][6::2], strict=True))
    assert {k: options[k] for k in ("--entries", "--seeds", "--minutes", "--threads")} == {
        "--entries": "azula",
        "--seeds": "3",
        "--minutes": "0.5",
        "--threads": "1",
    }


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in ENTRIES if name != "fromnoise"])
@pytest.mark.parametrize("data", ["fashion_mnist", "cifar10"])
def test_every_entry_trains_and_samples(name, data):
    """Two steps and two samples of every combination of weights and sampler."""
    accelerate = pytest.importorskip("accelerate")
    pytest.importorskip("torchcfm")
    accelerate.state.AcceleratorState._reset_state(True)
    entry = ENTRIES[name]
    if entry.data and data not in entry.data:
        pytest.skip("the library has no example for it")
    shape = {"fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}[data]
    task = Task(data, torch.randint(0, 256, (256, *shape), dtype=torch.uint8), torch.randint(0, 10, (256,)))
    trained = entry.train(task, Steps(2), entry.bf16)
    assert trained.steps == 2
    assert trained.images >= 32
    assert trained.samplers
    with torch.no_grad():
        for sampler in trained.samplers.values():
            assert sampler(2).shape == (2, *shape)


@pytest.mark.long
def test_ours_and_a_peer_from_the_command(tmp_path, monkeypatch):
    """Both are in the file with all figures, and a second command does nothing."""
    path = tmp_path / "league.json"
    arguments = ["league.py", "--minutes", "0.05", "-n", "32", "--entries", "fromnoise,azula", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json", str(path), "--pictures", str(tmp_path)])
    league.main()
    runs = json.loads(path.read_text(encoding="utf-8"))
    assert [r["entry"] for r in runs] == ["fromnoise", "azula"]
    assert not any("error" in r for r in runs)
    assert "azula" in league.tables(runs)
    written = path.stat().st_mtime_ns
    league.main()
    assert path.stat().st_mtime_ns == written
    assert (tmp_path / "fashion_mnist-0.05-azula.png").exists()
