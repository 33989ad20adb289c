"""Runs of several processes whose weights are sharded: FSDP2 on CPUs over gloo."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.run_dir import RunDir
from fromnoise.training.run import train
from ranks import Ranks, free_port, rank_variables

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
TOLERANCE = 1e-5


class Runs:
    """Trains by a small recipe in forked processes."""

    def __init__(self, folder: Path, tiny: dict) -> None:
        importlib.import_module("torch.distributed.fsdp")  # once, and not in each process
        importlib.import_module("fromnoise.checkpoint.sharded")
        self.folder, self.attempts = folder, itertools.count()
        self.values = tiny | {"network.dropout": 0, "ema.decays": [0.9], "sample.count": 0, "train.evaluations": 2}
        self.values |= {"train.decay": "constant"}  # the same steps with another budget

    def start(self, ranks: Ranks, out: str, world: int, before=lambda rank: None, **over) -> list:
        """Start ``world`` processes; ``before(rank)`` is called in each first."""
        values = self.values | {key.replace("__", "."): value for key, value in over.items()}
        recipe = recipes.load("digits", values | ({"train.sharding": "none"} if world == 1 else {}))
        port = free_port()

        def work(rank: int) -> None:
            before(rank)
            train(recipe, self.folder / out, device="cpu", precision="fp32")

        def environment(rank: int) -> dict[str, str]:
            more = {"ACCELERATE_USE_CPU": "true", "FROMNOISE_STALL_TIMEOUT": "5"}
            return {name: str(value) for name, value in rank_variables(rank, world, port).items()} | more

        return [ranks.start(lambda r=r: work(r), environment(r)) for r in range(world)]

    def train(self, out: str, world: int, before=lambda rank: None, **over) -> list[str]:
        """Train to the end; what each process printed."""
        place = self.folder / f"ranks{next(self.attempts)}"
        place.mkdir()
        with Ranks(place) as ranks:
            found = self.start(ranks, out, world, before, **over)
            codes = [rank.wait(300) for rank in found]
            texts = [rank.text for rank in found]
            assert codes == [0] * world, texts
        return texts

    def state(self, out: str) -> tuple[dict[str, torch.Tensor], dict]:
        """The last state, whole."""
        found = RunDir(self.folder / out).load_state()
        assert found is not None
        return found

    def losses(self, out: str) -> list[dict]:
        """Numbers of the reports that do not depend on the machine."""
        lines = (self.folder / out / "reports.jsonl").read_text().splitlines()
        return [
            {k: r.get(k) for k in ("step", "loss", "held_out_loss", "held_out_loss_raw")}
            for r in map(json.loads, lines)
        ]


@pytest.fixture
def runs(tmp_path, tiny):
    """Runs in folders of their own."""
    return Runs(tmp_path, tiny)


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest value of each tensor above 1."""
    assert a.keys() == b.keys()
    return max(float((t - b[k]).abs().max()) / max(1.0, float(t.abs().max())) for k, t in a.items())


def assert_close(runs: Runs, one: str, other: str) -> None:
    """Weights, averages and moments of the last states."""
    found = difference(runs.state(one)[0], runs.state(other)[0])
    print(f"{one} and {other}: states differ by {found:.1e}")
    assert found < TOLERANCE


def assert_same(runs: Runs, one: str, other: str) -> None:
    """Losses, held-out losses of steps at which both measure them, weights, averages and moments, and the model."""
    pairs = list(zip(runs.losses(one), runs.losses(other), strict=True))
    for a, b in pairs:
        both = [key for key in a if a[key] is not None and b[key] is not None]
        assert {key: a[key] for key in both} == pytest.approx({key: b[key] for key in both}, abs=TOLERANCE)
    print(f"{one} and {other}: losses differ by {max(abs(a['loss'] - b['loss']) for a, b in pairs):.1e}")
    assert_close(runs, one, other)
    models = (checkpoint.read(runs.folder / out / "model.safetensors")[0] for out in (one, other))
    assert difference(*models) < TOLERANCE


@pytest.mark.slow
def test_two_processes_equal_one(runs):
    """With a state written beside training and previews; one process goes on with it, and they with its own."""
    runs.train("one", 1, train__steps=3)
    runs.train("two", 2, train__steps=2, train__sharding="full", train__checkpoint_steps=1, train__previews=1)
    assert list((runs.folder / "two" / "samples").glob("step_*.png"))
    runs.train("two", 1, train__steps=3)
    assert "sharding was full and is none" in (runs.folder / "two" / "log").read_text()
    assert_close(runs, "one", "two")


# ---- the rest takes minutes

SETTINGS = {
    "adamw": {},
    "muon": {"train__optimizer": "muon", "train__clip": 0.5},
    "accumulated and recomputed": {"train__accumulate": 2, "network__recompute": True},
    "self-conditioning and the best epoch": {
        **{"loss__self_conditioning": True, "ema__decays": [], "ema__widths": [], "ema__best_epoch": True},
        "train__batch": 128,
    },
}


@pytest.mark.long
@pytest.mark.parametrize("setting", SETTINGS)
def test_processes_agree(runs, setting):
    """One, two by DDP, and two and four with sharded weights: 50 steps; the model samples the same images."""
    values = SETTINGS[setting] | {"train__steps": 50, "sample__count": 4}
    runs.train("one", 1, **values)
    runs.train("ddp", 2, **values)
    for world in (2, 4):
        runs.train(f"sharded{world}", world, **values, train__sharding="full")
    for other in ("ddp", "sharded2", "sharded4"):
        assert_same(runs, "one", other)
        images = [(runs.folder / out / "samples.png").read_bytes() for out in ("one", other)]
        assert images[0] == images[1]


@pytest.mark.long
@pytest.mark.parametrize("world", [1, 2, 3])
def test_saved_by_four_and_loaded_by_others(runs, world):
    """A state of four processes is read by one, two and three, and a whole one by sharded processes."""
    steps = {"train__steps": 24, "train__batch": 24, "train__checkpoint_steps": 12}
    runs.train("one", 1, **steps)
    runs.train("other", 4, **steps | {"train__steps": 12}, train__sharding="full")
    runs.train("other", world, **steps, train__sharding="full")
    assert_same(runs, "one", "other")
    runs.train("back", 1, **steps | {"train__steps": 12})
    runs.train("back", 4, **steps, train__sharding="full")
    assert_same(runs, "one", "back")


@pytest.mark.long
def test_evaluations_and_best_weights(runs):
    """Distances of samples of the gathered weights are those of one process, and so are the best weights."""
    values = {"train__steps": 8, "evaluation__times": 2, "evaluation__samples": 100, "evaluation__steps": 2}
    values |= {"evaluation__features": "pixels", "train__evaluation_share": 0.9}
    runs.train("one", 1, **values)
    runs.train("two", 2, **values, train__sharding="full")
    found = [checkpoint.read(runs.folder / out / "best.safetensors") for out in ("one", "two")]
    (a, header), (b, other) = found
    frechet = [h["progress"]["evaluation"]["frechet"]["value"] for h in (header, other)]
    assert frechet[0] == pytest.approx(frechet[1], rel=1e-3)
    assert difference(a, b) < TOLERANCE


@pytest.mark.long
def test_latents_are_trained_sharded(runs):
    """The frozen autoencoder stays whole; its statistics and the diffusion model are those of one process."""
    from conftest import AUTOENCODER

    values = {key.replace(".", "__"): v for key, v in AUTOENCODER.items()} | {"train__steps": 6}
    recipe = recipes.load

    def of_latents(name, chosen):
        return recipe("latent", chosen | {"ema.widths": []})

    recipes.load = of_latents
    try:
        runs.train("one", 1, **values)
        runs.train("two", 2, **values, train__sharding="full")
    finally:
        recipes.load = recipe
    (a, _), (b, _) = runs.state("one"), runs.state("two")
    assert "model.latent_space.deviation" in a and difference(a, b) < 1e-3


# ---- kills


def kill_at(place: Path, at: int, victim: int):
    """Kill a rank at its operation number ``at`` on the files of the states."""

    def before(rank: int) -> None:
        if rank == victim:
            from crash_points import Disk  # pyright: ignore[reportMissingImports]

            Disk(place, at).install()

    return before


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_at_every_write_of_a_state(runs, victim, monkeypatch):
    """Training goes on from the state before or from this one, to the weights of an undisturbed run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "faults"))
    steps = {"train__steps": 6, "train__checkpoint_steps": 2, "train__sharding": "full"}
    runs.train("whole", 2, **steps)
    runs.train("begun", 2, **steps | {"train__steps": 2})
    for at in range(0, 200, 7 if victim == 0 else 3):
        out = f"killed{at}"
        shutil.copytree(runs.folder / "begun", runs.folder / out)
        place = runs.folder / f"at{at}"
        place.mkdir()
        with Ranks(place) as ranks:
            found = runs.start(ranks, out, 2, kill_at(runs.folder / out, at, victim), **steps)
            codes = [rank.wait(120) for rank in found]
        if codes == [0, 0]:  # it has fewer operations
            assert at
            return
        assert codes[victim] == -signal.SIGKILL, found[victim].text
        assert codes[1 - victim] in (0, 2), found[1 - victim].text  # 0: it had ended before the last writes
        assert "Traceback" not in found[1 - victim].text
        _, header = runs.state(out)
        assert header["progress"]["step"] in (2, 4, 6)
        runs.train(out, 2, **steps)
        assert_close(runs, "whole", out)
        # a kill between the last state and the deletion of an old one leaves three, and nothing else
        assert len(list((runs.folder / out / "state").iterdir())) in (4, 6)
    raise AssertionError("more operations than expected")


@pytest.mark.long
def test_disk_of_one_rank_is_full(runs, monkeypatch):
    """One line, the state before is whole, and the same command goes on."""

    def full(rank: int) -> None:
        if rank == 1:
            from fromnoise.checkpoint import sharded
            from fromnoise.utils.errors import UserError

            def refuse(path, tensors, header):
                raise UserError(f"cannot write {path}: No space left on device")

            sharded.write = refuse

    steps = {"train__steps": 4, "train__checkpoint_steps": 2, "train__sharding": "full"}
    runs.train("run", 2, **steps | {"train__steps": 2})
    place = runs.folder / "full"
    place.mkdir()
    with Ranks(place) as ranks:
        found = runs.start(ranks, "run", 2, full, **steps)
        assert [rank.wait(120) for rank in found] == [2, 2]
        text = found[0].text
        assert "No space left on device" in text and "Traceback" not in text + found[1].text
    assert runs.state("run")[1]["progress"]["step"] == 2
    runs.train("run", 2, **steps)
    assert runs.state("run")[1]["progress"]["step"] == 4


@pytest.mark.long
def test_killed_at_random_moments(runs):
    """SIGKILL of all processes, which go on in another number."""
    steps = {"train__steps": 60, "train__checkpoint_steps": 3, "train__sharding": "full"}
    runs.train("whole", 1, **steps)
    for world in (2, 4, 2):
        place = runs.folder / f"random{next(runs.attempts)}"
        place.mkdir()
        with Ranks(place) as ranks:
            found = runs.start(ranks, "run", world, **steps)
            newest = RunDir(runs.folder / "run").newest_step
            end = time.monotonic() + 120
            while RunDir(runs.folder / "run").newest_step < min(newest + 6, 54) and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(os.getpid() % 7 / 50)
            for rank in found:
                rank.kill()
            for rank in found:
                rank.wait(30)
    runs.train("run", 2, **steps)
    assert_same(runs, "whole", "run")
