"""Budgets: measurements take a small part of them, too small ones are announced, and threads follow the speed."""

from __future__ import annotations

import contextlib
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import fromnoise as fn
from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.evaluation.features import convnet
from fromnoise.evaluation.features.trained import classifier_features
from fromnoise.model import build
from fromnoise.pipeline import sample_steps
from fromnoise.run_dir import RunDir
from fromnoise.training import cost_estimate as cost_estimate_module
from fromnoise.training import loop as loop_module
from fromnoise.training import previews
from fromnoise.training.cost_estimate import CostEstimate, quick_estimate
from fromnoise.training.forecast import Forecast, min_steps, prepare_budget
from fromnoise.training.measurement_plan import MeasurementCosts, MeasurementPlan, allowance, is_due
from fromnoise.training.measurements import Measurements
from fromnoise.training.optim import Budget
from fromnoise.training.overhead import UP_FRONT, Overhead
from fromnoise.training.previews import SamplePreviews
from fromnoise.training.run import run_steps
from fromnoise.training.self_evaluation import SelfEvaluation, features_seconds
from fromnoise.training.stopping import Stopped
from fromnoise.training.threads import ThreadTuner, busy_seconds_of, choose_threads, restored_threads

WANTED = MeasurementPlan(evaluations=20, at_start=True, previews=8, self_evaluations=4, final_samples=64)
COSTS = MeasurementCosts(held_out=2.0, preview=5.0, self_evaluation=30.0, sample=0.5)


class FakeTime:
    """Seconds that the test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


# ---- the plan


@pytest.mark.parametrize("seconds", [0.0, 0.4, 3.0, 10.0, 40.0, 100.0, 200.0, 237.0, 1000.0])
def test_plan_fits(seconds):
    """It never takes longer than allowed, has no more than was asked for, and all of it where that fits."""
    plan = WANTED.within(seconds, COSTS)
    assert plan.seconds(COSTS) <= seconds
    assert all(getattr(plan, key) <= getattr(WANTED, key) for key in plan.__annotations__)
    assert (plan == WANTED) == (WANTED.seconds(COSTS) <= seconds)
    assert plan.seconds_at_end(COSTS) <= plan.seconds(COSTS)
    assert bool(plan.describe_cuts(WANTED)) == (replace(plan, at_start=True) != WANTED), (
        "what is left out is said, but for the measurements at the start"
    )


def test_every_kind_has_a_part():
    """With half of the time that everything takes, no kind is left out."""
    plan = WANTED.within(WANTED.seconds(COSTS) / 2, COSTS)
    assert min(plan.evaluations, plan.previews, plan.self_evaluations, plan.final_samples) >= 1


def test_allowance():
    """A tenth of minutes, a quarter of it for checkpoints; a short budget in steps allows ten seconds."""
    assert allowance(0.1, 600.0, in_minutes=True) == pytest.approx(45.0)
    assert allowance(0.1, 2.0, in_minutes=True) == pytest.approx(0.15)
    assert allowance(0.1, 2.0, in_minutes=False) == 10.0
    assert allowance(0.1, 6000.0, in_minutes=False) == pytest.approx(450.0)


def test_costs_count_network_evaluations():
    """Images times sampling steps times weights; guidance doubles the evaluations of the final samples."""
    values = {"sample.steps": 10, "train.held_out": 100, "sample.sampler": "ddim", "data.labels": True}
    model = build(recipes.load("digits", values | {"sample.guidance": 2.0}), DatasetInfo((1, 8, 8), ("a", "b")))
    costs = MeasurementCosts.estimate(model, 1000, 0.01)
    assert costs.held_out == pytest.approx(100 * 2 * 0.01)
    assert costs.preview == pytest.approx(16 * 10 * 2 * 0.01)
    assert costs.self_evaluation == pytest.approx(1000 * 20 * 0.01)
    assert costs.sample == pytest.approx(10 * 2 * 0.01)


def test_features_of_evaluations_are_counted():
    """Once, before the first evaluation; where they do not fit, there are no evaluations."""
    costs = replace(COSTS, features=50.0)
    assert WANTED.seconds(costs) == WANTED.seconds(COSTS) + 50 and WANTED.seconds_at_end(costs) < 80
    for seconds in range(0, 300, 7):
        plan = WANTED.within(seconds, costs)
        assert plan.seconds(costs) <= seconds
    assert WANTED.within(79.0, costs).self_evaluations == 0 < WANTED.within(200.0, costs).self_evaluations


# ---- the forecast


def forecast(recipe, step_seconds, forward_seconds, side=64, **budget):
    """The forecast of a recipe on a simulated machine; the network is a tiny one."""
    small = {"network.width": 8, "network.groups": 4, "network.multipliers": [1], "network.attention_resolutions": []}
    small |= {"network.heads": 1, "network.middle_attention": False} if recipe != "unet" else {}
    small = small if recipe != "unet" else {"network.width": 8, "network.multipliers": [1]}
    loaded = recipes.load(recipe, small | {f"train.{key}": value for key, value in budget.items()})
    model = build(loaded, DatasetInfo((3, side, side)))
    cost = CostEstimate(1000, step_seconds, 10.0, forward_seconds)
    return Forecast.of(model, Budget.from_config(loaded.train, 1000), 256, cost), loaded


def test_short_budget_in_minutes_is_spent_in_steps():
    """1.2 minutes of ``images``, where all measurements would take an hour: at least 1.0 minutes are for steps."""
    found, _ = forecast("images", step_seconds=2.0, forward_seconds=0.05, minutes=1.2)
    assert found.steps * 2.0 >= 60 and found.seconds == pytest.approx(72)
    assert found.plan.seconds(found.costs) <= 7.2


def test_two_steps_of_a_large_network_are_not_followed_by_minutes_of_measurements():
    """``unet --steps 2 --batch 4`` (review D2): ten seconds at most."""
    found, _ = forecast("unet", step_seconds=4.0, forward_seconds=0.3, steps=2, batch=4)
    assert found.steps == 2 and found.plan.seconds(found.costs) <= 10
    assert found.seconds <= 18


def test_small_networks_measure_all():
    """Where everything fits, the plan is the recipe."""
    found, loaded = forecast("images", step_seconds=0.05, forward_seconds=1e-4, minutes=60)
    assert found.plan.previews == loaded.train.previews and found.plan.final_samples == loaded.sample.count
    assert found.plan.at_start and found.plan.evaluations == loaded.train.evaluations


def test_too_small_a_budget_names_the_one_that_would_do():
    """In the unit of the budget, and the named one is enough."""
    found, loaded = forecast("images", step_seconds=2.0, forward_seconds=0.01, minutes=1.2)
    warning = found.warning(loaded, 1000)
    assert "1.2 minutes" in warning and f"{min_steps(loaded, 1000):,} steps" in warning and "\n" not in warning
    minutes = float(warning.split("--minutes ")[1].split()[0])
    enough, loaded = forecast("images", step_seconds=2.0, forward_seconds=0.01, minutes=minutes)
    assert enough.warning(loaded, 1000) == "" and enough.steps < 1.2 * min_steps(loaded, 1000)
    found, loaded = forecast("images", step_seconds=2.0, forward_seconds=0.01, steps=2)
    assert f"--steps {min_steps(loaded, 1000)}" in found.warning(loaded, 1000)


def test_minimum_of_steps():
    """300 and twice the warm-up; three time constants of an average without warm-up; an epoch of the best epoch."""
    assert min_steps(recipes.load("digits", {}), 1707) == 300 + 2 * 20
    assert min_steps(recipes.load("flowers", {}), 1020) == 3000
    assert min_steps(recipes.load("ho2020", {}), 50_000) == 30_001
    assert min_steps(recipes.load("pulfer", {}), 60_000) == math.ceil(60_000 / 128)
    assert min_steps(recipes.load("digits", {"train.min_steps": 7}), 1707) == 7


# ---- the time that measurements take


def test_overhead_is_not_ahead_of_the_budget():
    """Measurements wait until the budget has caught up, and the sum stays below what is allowed."""
    clock = FakeTime()
    overhead = Overhead(10.0, clock)
    assert overhead.allows("preview", 0.1)
    with overhead.spend("preview"):
        clock.now += 4
    assert not overhead.allows("preview", 0.2) and overhead.allows("preview", 0.5)
    with overhead.spend("preview"):
        clock.now += 4
    assert not overhead.allows("preview", 1.0)  # 12 of 10 s
    assert overhead.allows("held-out loss", 1.0)
    with overhead.spend("checkpoint"):
        clock.now += 100
    assert overhead.allows("held-out loss", 1.0) and overhead.seconds == pytest.approx(108)
    assert Overhead(None, clock).allows("preview", 0.0)


def test_features_at_the_start_do_not_delay_other_measurements():
    """They count in the sum, not in what must not be ahead of the budget."""
    clock = FakeTime()
    overhead = Overhead(10.0, clock)
    with overhead.spend(UP_FRONT):
        clock.now += 6
    assert overhead.allows("preview", 0.0)
    with overhead.spend("preview"):
        clock.now += 2
    assert not overhead.allows("preview", 0.4) and overhead.allows("preview", 0.5)
    with overhead.spend("preview"):
        clock.now += 2
    assert not overhead.allows("preview", 1.0)
    assert "6.0 s for evaluation features" in overhead.describe()


@pytest.mark.parametrize("slower", [1.0, 8.0])
def test_a_run_in_minutes_keeps_its_share(make, monkeypatch, tmp_path, slower):
    """A simulated machine of 0.5 s a step, with measurements as expensive as planned, or eight times so."""
    clock = FakeTime()
    loop = make(steps=None, train_minutes=2.0, train_previews=8, train_evaluations=20)
    monkeypatch.setattr(loop_module.time, "monotonic", clock)
    cost = CostEstimate(1000, 0.5, 10.0, 0.01)
    monkeypatch.setattr("fromnoise.training.forecast.quick_estimate", lambda model, compute, threads: (cost, 1))
    spent = {"steps": 0.0, "measurements": 0.0}

    def spend(kind, seconds):
        clock.now += seconds
        spent[kind] += seconds

    def step(batch):
        spend("steps", 0.5)
        loop.progress.step += 1
        return 1.0, 1.0, 1e-3

    log = []
    prepare_budget(loop, log.append)
    loop.measurements.overhead._clock = clock
    costs = MeasurementCosts.estimate(loop.model, 90, 0.01)
    monkeypatch.setattr(loop, "_train_step", step)
    monkeypatch.setattr(
        loop.held_out_loss, "report", lambda *a: spend("measurements", slower * costs.held_out) or {"held_out_loss": 1}
    )
    drawn = []

    class Pictures:
        def __init__(self, *args): ...
        def save_data(self, *args): ...
        def save_loss_plot(self): ...
        def save_preview(self, loop):
            drawn.append(loop.progress.step)
            spend("measurements", slower * costs.preview)

    class Folder(RunDir):
        def write_reports(self, reports, to_disk=True): ...
        def save_state(self, *args): ...

    monkeypatch.setattr("fromnoise.training.run.previews_of", Pictures)
    begun = clock.now
    for _ in run_steps(loop, Folder(tmp_path), True, log.append, False):
        pass
    spend("measurements", slower * costs.sample * loop.measurements.plan.final_samples)
    assert spent["measurements"] <= 12.0 * (1 if slower == 1 else 2.5)  # one measurement of each kind is learned from
    assert spent["steps"] >= 108 and clock.now - begun <= 122 + 12 * (slower - 1)
    assert loop.budget_used == 1
    if slower == 1:
        assert len(drawn) >= 2 and loop.measurements.plan.final_samples > 0


def test_a_finished_run_in_minutes_is_finished(make, monkeypatch):
    """The reserve for the end is part of the state, so that a finished run does not train for that long again."""
    loop = make(steps=None, train_minutes=2.0)
    loop.measurements.set_plan(replace(loop.measurements.plan, previews=1), 5.0)
    loop.progress.seconds = 115.0
    tensors, header = loop.state()
    again = make(steps=None, train_minutes=2.0)
    again.resume(tensors, header)
    assert again.budget_used == 1 and again.measurements.restored and again.measurements.plan.previews == 1
    longer = make(steps=None, train_minutes=3.0)
    longer.resume(tensors, header)
    assert longer.budget_used == pytest.approx(115 / 180) and not longer.measurements.restored


def test_plans_of_other_programs_are_ignored(make):
    """A header that was altered leaves the recipe's plan."""
    measurements = Measurements(make().model.recipe)
    right = measurements.to_json()
    for wrong in (None, [], {}, right | {"plan": {}}, right | {"plan": None}, right | {"reserve": math.inf}):
        measurements.restore(wrong)
    measurements.restore(right | {"plan": right["plan"] | {"previews": "many"}})
    assert not measurements.restored
    measurements.restore(right)
    assert measurements.restored


def test_no_held_out_loss_without_a_plan_of_one(make):
    """Not after the first step either; the first and the last report are written all the same."""
    loop = make(steps=3)
    loop.measurements.set_plan(MeasurementPlan(0, True, 0, 0, 0), 0.0)
    loop.held_out_loss.report = None  # would raise
    reports = list(loop.run())
    assert len(reports) == 3 and reports[-1].logged and all(r.held_out_loss is None for r in reports)


def test_parts_of_the_budget():
    """Each of n parts is due once, none of zero."""
    steps = [i / 10 for i in range(11)]
    assert sum(is_due(a, b, 5) for a, b in zip(steps, steps[1:], strict=False)) == 5
    assert not any(is_due(a, b, 0) for a, b in zip(steps, steps[1:], strict=False))


# ---- threads


def test_waiting_for_a_core_is_not_counted(monkeypatch):
    """A call takes the lesser of its duration, 2 s here, and of the CPU time of all threads, 0.01 s."""
    wall, cpu = iter(range(0, 100, 2)), iter(x / 100 for x in range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(time, "process_time", lambda: next(cpu))
    assert busy_seconds_of(lambda: None) == pytest.approx(0.01)


def test_estimates_beside_busy_processes_are_of_many_images(make, monkeypatch):
    """Where a pass of one image waits for seconds, a fixed part of it would be multiplied by the batch."""
    images = []
    monkeypatch.setattr(cost_estimate_module, "estimate_cost", lambda m, c, n, min_seconds: images.append(n))
    monkeypatch.setattr(cost_estimate_module, "busy_seconds_of", lambda work: 0.001)
    monkeypatch.setattr(cost_estimate_module, "seconds_of", lambda work, times=1: 2.0)
    loop = make(train_batch=16)
    with restored_threads():
        quick_estimate(loop.model, loop.compute, 1)
    assert images == [16]


class Machine:
    """Steps take ``alone`` / threads seconds, and ``beside[threads]`` times as long beside other processes."""

    def __init__(self, cores, beside):
        self.threads, self.cores, self.beside, self.busy, self.set_to = cores, cores, beside, False, []
        self.preemptions = 0

    def tuner(self, count, limit, log=lambda line: None):
        """A tuner of this machine."""
        return ThreadTuner(count, limit, log, self.set_threads, lambda: self.preemptions)

    def set_threads(self, count):
        self.threads = count
        self.set_to.append(count)

    def seconds(self):
        return 0.2 / self.threads * (self.beside[self.threads] if self.busy else 1.0)

    def train(self, tuner, steps):
        """Number of seconds that steps take."""
        total = 0.0
        for _ in range(steps):
            seconds = self.seconds()
            self.preemptions += round(40 * seconds) if self.busy else 0
            tuner.observe(seconds)
            total += seconds
        return total


def test_a_quiet_machine_keeps_its_threads():
    """No trial at all, so that a resumed run equals the uninterrupted one bit for bit."""
    machine = Machine(2, {1: 1.5, 2: 14.0})
    machine.train(machine.tuner(2, 2), 2000)
    assert machine.set_to == [2]
    machine = Machine(8, {})
    machine.train(machine.tuner(2, 8), 2000)  # a small network, for which two threads are the fastest
    assert machine.set_to == [2]


def test_threads_follow_the_load():
    """Fewer beside other processes, and all again when these have ended; trials cost little."""
    machine, log = Machine(2, {1: 1.5, 2: 14.0}), []
    tuner = machine.tuner(2, 2, log.append)
    machine.train(tuner, 100)
    machine.busy = True
    machine.train(tuner, 40)
    assert tuner.count == machine.threads == 1 and "1 instead of 2" in log[0]
    steps = 2000
    assert machine.train(tuner, steps) < steps * 0.3 * 1.1
    machine.busy = False
    machine.train(tuner, 2000)
    assert tuner.count == machine.threads == 2 and len(log) == 2


def test_a_slow_machine_is_not_tried_for_ever():
    """Where fewer threads do not help, one trial is enough until the speed changes again."""
    machine = Machine(2, {1: 5.0, 2: 4.0})
    tuner = machine.tuner(2, 2)
    machine.train(tuner, 50)
    machine.busy = True
    machine.train(tuner, 1000)
    assert machine.set_to.count(1) == 1 and tuner.count == 2


@pytest.mark.parametrize(
    ("seconds", "limit", "chosen"),
    [
        ({8: 1, 4: 1.1}, 8, 8),
        ({8: 4, 4: 2, 2: 1, 1: 1.5}, 8, 2),
        ({2: 5, 1: 1}, 2, 1),
        ({3: 2, 1: 1}, 3, 1),
        ({}, 1, 1),
    ],
)
def test_choice_at_the_start(seconds, limit, chosen):
    """The largest number that no half of it beats clearly."""
    assert choose_threads(seconds.__getitem__, limit) == chosen


# ---- signals


def test_a_preview_is_given_up(make, tmp_path, monkeypatch):
    """After the sampling step in which the run is asked to stop; no step is taken after it, and nothing is written."""
    loop, taken = make(steps=10, train_previews=2), []

    def stopping(*args, **kwargs):
        for step in sample_steps(*args, **kwargs):
            taken.append(step)
            loop.stop()
            yield step

    monkeypatch.setattr(previews, "sample_steps", stopping)
    with contextlib.closing(RunDir(tmp_path / "run")) as run_dir:
        run_dir.open(loop.model.recipe)
        assert list(run_steps(loop, run_dir, True, run_dir.log, False)) == []
        with pytest.raises(Stopped):
            SamplePreviews(run_dir, loop.compute).save_final_samples(loop, loop.stop_requested)
    assert len(taken) == 1 and loop.progress.step == 0
    names = {path.name for path in (tmp_path / "run").rglob("*.png")}
    assert names == {"forward.png", "first_batch.png"} and list((tmp_path / "run").glob("state/*.safetensors"))


@pytest.mark.slow
def test_signal_during_a_preview(tmp_path, fork_command):
    """TERM in the first preview ends the run: no last samples, exit code 143."""
    words = ("--steps", "100000", "--train.previews", "4", "--train.evaluation_share", "0.9", "--sample.count", "500")
    slow = ("--sample.steps", "20", "--network.width", "64", "--data.size", "64", "--sample.sampler", "ddim")
    process = fork_command(tmp_path / "run", *words, *slow)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("state/0*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped at step 0;" in error, error
    assert time.monotonic() - begun < 20
    assert not (tmp_path / "run" / "samples.png").exists() and not list((tmp_path / "run").glob("samples/step*"))


def test_stop_while_a_classifier_is_trained(make, tmp_path, monkeypatch):
    """For the features of evaluations: after its step no other is taken, and no file is left in the cache."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    loop, taken = make(steps=10, evaluation_times=2, data_labels=True), []
    original = convnet.train_classifier

    def stopping(*args):
        for loss in original(*args):
            taken.append(loss)
            loop.stop()
            yield loss

    monkeypatch.setattr(convnet, "train_classifier", stopping)
    with contextlib.closing(RunDir(tmp_path / "run")) as run_dir, pytest.raises(Stopped):
        SelfEvaluation(loop, run_dir, print)
    assert len(taken) == 1 and not list(tmp_path.rglob("cache/**/*.safetensors"))


def test_duration_of_features_is_that_of_their_training(make, tmp_path, monkeypatch):
    """The number of steps times that of a step; nothing without evaluations, and no training from the cache."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    loop = make(evaluation_times=2, data_labels=True)
    plan = convnet.TrainingPlan.for_images(len(loop.data.train))
    trained = features_seconds(loop.model, loop.data, loop.compute)
    assert plan.steps * 1e-4 < trained < plan.steps * 5
    assert not list(tmp_path.rglob("cache/**/*.safetensors"))
    monkeypatch.setattr(convnet.TrainingPlan, "for_images", lambda images, views=1: convnet.TrainingPlan(2, 16))
    classifier_features(loop.data, compute=loop.compute)
    monkeypatch.setattr(convnet, "train_classifier", None)  # would raise
    assert features_seconds(loop.model, loop.data, loop.compute) < trained
    assert features_seconds(make().model, loop.data, loop.compute) == 0


def test_stop_during_a_held_out_loss(make):
    """It is given up, and the loop ends."""
    loop, calls = make(steps=1000, train_held_out=90, train_evaluations=1), []
    images = loop.data.held_out

    class Stopping:
        labels = None

        def get(self, indices):
            calls.append(1)
            loop.stop()
            return images.get(indices)

    loop.held_out_loss._images = Stopping()
    reports = list(loop.run())
    assert len(calls) == 1 and len(reports) == 1 and reports[0].held_out_loss is None and loop.stopping


def test_threads_are_restored(make):
    """Training through the library leaves torch's number of threads as it was."""
    before = torch.get_num_threads()
    trainer = fn.Trainer("digits", steps=1, batch=8, train__threads=1, network__width=8, network__groups=4)
    trainer.run()
    assert torch.get_num_threads() == before


@pytest.mark.long
def test_images_for_a_minute(tmp_path, real_data):
    """``images --minutes 1.2`` on 64x64 emoji: at least a minute is spent in steps, by the log of the run."""
    words = ("train", "images", "--data", str(real_data / "emoji_64.zip"), "--minutes", "1.2")
    command = [sys.executable, "-m", "fromnoise", *words, "--device", "cpu", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "run" / "log").read_text()
    found = re.search(r"trained ([\d,]+) steps in .* \(([\d.]+) s in steps", log)
    assert found is not None and float(found[2]) >= 60, log
