"""The training loop: exact resume, dropped steps and rollbacks, accumulation, and measurements without side effects."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from fromnoise.model import Model
from fromnoise.networks import layers
from fromnoise.utils.errors import UserError


def tensors(loop):
    """All tensors of the training state, cloned."""
    return {k: v.clone() for k, v in loop.state()[0].items()}


def saved_state(loop):
    """The training state as it is read back from the disk."""
    return tensors(loop), json.loads(json.dumps(loop.state()[1]))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def lines(reports):
    """Lines of reports.jsonl without the numbers that depend on the machine."""
    return [json.dumps({k: v for k, v in r.to_json().items() if k != "timing"}) for r in reports if r.logged]


VARIANTS = {
    "plain": {},
    "accumulated": {"train_accumulate": 2},
    "self-conditioning": {"loss_self_conditioning": True},
    "labels": {"data_labels": True},
    "learned variance": {"diffusion_learned_variance": True, "loss_objective": "hybrid"},
    "importance": {"loss_time_sampler": "importance", "loss_objective": "vlb", "diffusion_schedule.steps": 8},
    "muon, lognormal": {"train_optimizer": "muon", "loss_time_sampler": "lognormal", "diffusion_target": "edm"},
    "averages": {"ema_decays": [0.9, 0.99], "ema_widths": [0.1]},
    "power warm-up, every third step": {
        "ema_decays": [0.9],
        "ema_widths": [0.1],
        "ema_warmup": "power",
        "ema_update_every": 3,
        "ema_update_after": 2,
    },
    "best epoch": {"ema_decays": [], "ema_widths": [], "ema_best_epoch": True, "train_batch": 512},
    "no average, offset noise, flips": {
        "ema_decays": [],
        "ema_widths": [],
        "loss_offset_noise": 0.1,
        "data_flip": True,
    },
}


def check_resume(make_trainer, starts=(0, 1, 5, 11)):
    """12 steps equal k steps and the rest resumed from the state of step k, bit for bit; returns the reports."""
    whole = make_trainer()
    states, reports = {0: saved_state(whole)}, []
    for report in whole.run():
        reports.append(report)
        states[report.step] = saved_state(whole)
    for k in starts:
        resumed = make_trainer()
        resumed.resume({n: t.clone() for n, t in states[k][0].items()}, states[k][1])
        rest = list(resumed.run())
        assert same(tensors(resumed), tensors(whole)), k
        assert lines(rest) == lines(reports[k:])
        a, b = dict(resumed.state()[1]["progress"]), dict(whole.state()[1]["progress"])
        a.pop("seconds"), b.pop("seconds")
        assert a == b
    return reports


@pytest.mark.parametrize("name", VARIANTS)
def test_resumed_equals_uninterrupted(name, make):
    """Weights, moments, averages, counters and reports."""
    check_resume(lambda: make(**VARIANTS[name]))


@pytest.fixture
def float32_losses(make):
    """Losses of 12 steps in float32."""
    return torch.tensor([r.loss for r in make().run()])


def test_bfloat16(make, float32_losses):
    """The losses are those of float32 to 2 %, and resumed equals uninterrupted."""
    reports = check_resume(lambda: make(precision="bf16"), (5,))
    torch.testing.assert_close(torch.tensor([r.loss for r in reports]), float32_losses, rtol=0.02, atol=0)


def test_without_c_kernel(make, float32_losses, monkeypatch):
    """With torch's group normalization the losses agree to 1e-4, and resumed equals uninterrupted."""
    monkeypatch.setattr(layers, "can_fuse", lambda x: False)
    reports = check_resume(make, (5,))
    torch.testing.assert_close(torch.tensor([r.loss for r in reports]), float32_losses, rtol=1e-4, atol=0)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled(make):
    """With a compiled network the losses agree with eager ones to 1e-4, and resumed equals uninterrupted."""

    def compiled():
        loop = make(network_dropout=0)
        loop.model.denoiser.network.compile()
        return loop

    reports = check_resume(compiled, (5,))
    eager = torch.tensor([r.loss for r in make(network_dropout=0).run()])
    torch.testing.assert_close(torch.tensor([r.loss for r in reports]), eager, rtol=1e-4, atol=0)


def test_gradient_accumulation(make):
    """Four micro-batches train as one batch, to float32 rounding (without dropout, whose masks differ)."""
    one, four = (make(steps=6, network_dropout=0.0, train_accumulate=n) for n in (1, 4))
    losses = [[r.loss for r in t.run()] for t in (one, four)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    a, b = one.ema_state_dict(), four.ema_state_dict()
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-4


def test_out_of_memory_doubles_the_micro_batches(make):
    """Once, at the first step; from then on the run equals one that accumulates from the start, bit for bit."""

    def with_memory_for(loop, most):
        forward, loop.tried = loop.training_loss.forward, []

        def limited(x0, *args, **kwargs):
            loop.tried.append(len(x0))
            if len(x0) > most:
                raise torch.OutOfMemoryError("too much")
            return forward(x0, *args, **kwargs)

        loop.training_loss.forward = limited
        return loop

    messages = []
    found, want = with_memory_for(make(steps=3, log=messages.append), 5), make(steps=3, train_accumulate=4)
    list(found.run())
    list(want.run())
    assert same(tensors(found), tensors(want))
    assert found.tried[:2] == [16, 8] and set(found.tried[2:]) == {4}
    assert len(messages) == 2 and "continuing with 4" in messages[-1]
    with pytest.raises(UserError, match="recompute"):
        list(with_memory_for(make(steps=3), 0).run())


def test_measurements_do_not_change_training(make):
    """Held-out losses have random numbers of their own: the weights are the same with and without them."""
    quiet, busy = make(train_evaluations=1), make(train_evaluations=12)
    list(quiet.run())
    for _ in busy.run():
        busy.evaluate()
        busy.ema_state_dict()
    assert same(tensors(quiet), tensors(busy))


def test_held_out_loss_is_reproducible(make):
    """The same weights have the same held-out loss, because each image has a fixed time and fixed noise."""
    loop = make()
    first = loop.evaluate()
    assert first == loop.evaluate()
    list(loop.run())
    assert loop.evaluate()["held_out_loss"] < first["held_out_loss"]
    assert len(first["loss_by_t"]) == 10


def test_loss_falls(make):
    """After 150 steps on real digits the loss is below 0.7 of the first."""
    loop = make(steps=150, train_lr=3e-3, network_dropout=0.0, train_report_every=30)
    logged = [r.loss for r in loop.run() if r.logged]
    assert logged[-1] < 0.7 * logged[0]


def make_non_finite(loop, when):
    """Make the loss NaN or infinite at the steps for which ``when(loop)`` is true."""
    forward = loop.training_loss.forward

    def poisoned(*args, **kwargs):
        losses = forward(*args, **kwargs)
        factor = math.nan if loop.progress.step % 2 else math.inf
        return losses._replace(weighted=losses.weighted * factor) if when(loop) else losses

    loop.training_loss.forward = poisoned


def test_non_finite_steps_are_dropped(make):
    """They change neither weights nor moments nor averages, and are counted; training continues."""
    loop = make(steps=6)
    make_non_finite(loop, lambda t: t.progress.step in (2, 3))
    before, dropped = None, []
    for report in loop.run():
        dropped.append(report.dropped_steps)
        if report.step in (3, 4):
            assert same(tensors(loop), before)
        else:
            assert before is None or not same(tensors(loop), before)
        before = tensors(loop)
    assert dropped == [0, 0, 1, 2, 2, 2]
    assert all(bool(t.isfinite().all()) for t in loop.ema_state_dict().values())


def test_rollback_after_several_dropped_steps(make):
    """To the last saved state, with half the learning rate and a message; training then ends well (PD#44)."""
    saved, messages = [], []
    loop = make(steps=14, load_state=lambda skip: saved[-1], log=messages.append)
    make_non_finite(loop, lambda t: 4 <= t.progress.step < 9)
    for report in loop.run():
        if report.step == 3:
            saved.append(saved_state(loop))
        if report.step == 9:
            assert report.rollbacks == 1 and report.dropped_steps == 5
            assert same(tensors(loop), saved[0][0])
    assert loop.progress.lr_scale == 0.5
    assert any("back to the weights of step 3" in line and "halved" in line for line in messages)
    assert all(bool(t.isfinite().all()) for t in loop.ema_state_dict().values())


def test_rollback_to_an_older_state(make):
    """If the newest state gives NaN too: it may have been saved between a good step and the first bad one (DD#61)."""
    skips = []
    loop = make(steps=40)
    good = saved_state(loop)
    bad = ({k: torch.full_like(v, math.nan) if k.startswith("model.") else v for k, v in good[0].items()}, good[1])

    def load_state(skip):
        skips.append(skip)
        return bad if skip == 0 else good

    loop._load_state = load_state
    make_non_finite(loop, lambda t: t.progress.step < 5)
    list(loop.run())
    assert skips == [0, 1]
    assert loop.progress.dropped_steps == 10 and loop.progress.rollbacks == 2
    assert all(bool(t.isfinite().all()) for t in loop.ema_state_dict().values())


def test_ten_rollbacks_in_a_row_end_the_run(make):
    """With a message that names the data and the learning rate."""
    loop = make(steps=500)
    make_non_finite(loop, lambda t: True)
    with pytest.raises(UserError, match="not finite"):
        list(loop.run())
    assert loop.progress.step < 100


def test_batch_that_cannot_be_divided(make):
    with pytest.raises(UserError, match="train.accumulate 3"):
        make(train_accumulate=3)


def test_budget_in_minutes(make):
    """The run ends on time, and learning rate and budget_used run their whole course."""
    loop = make(steps=None, train_minutes=0.05, train_evaluations=1)
    reports = list(loop.run())
    assert loop.progress.seconds >= 3 and reports[-1].budget_used == 1
    assert reports[0].budget_used < reports[-2].budget_used < 1  # the last step began within the budget
    assert reports[-1].lr < 0.5 * max(r.lr for r in reports)


def test_stop(make):
    """The loop ends after the current step."""
    loop = make(steps=100)
    for report in loop.run():
        if report.step == 3:
            loop.stop()
    assert loop.progress.step in (3, 4) and loop.stopping


def test_held_out_images_are_of_every_class(make, monkeypatch):
    """Data sets are often sorted by class, so the images are chosen over the whole set."""
    loop = make(train_held_out=45)
    seen = []
    inputs = Model.training_inputs
    monkeypatch.setattr(
        Model, "training_inputs", lambda self, x, labels, *rest: seen.append(labels) or inputs(self, x, labels, *rest)
    )
    monkeypatch.setattr(loop.data.held_out, "labels", torch.arange(90) // 9)
    loop.evaluate()
    assert len(torch.cat(seen).unique()) >= 9


def test_ema_model_has_the_averages(make):
    """Its parameters are those of the first average, not the raw weights."""
    loop = make(ema_decays=[0.9, 0.5])
    list(loop.run())
    found = dict(loop.ema_model().module.named_parameters())
    raw = dict(loop.model.denoiser.named_parameters())
    assert all(torch.equal(p, loop.ema.averages[0][name]) for name, p in found.items())
    assert any(not torch.equal(p, raw[name]) for name, p in found.items())


def test_moments_have_the_memory_layout_of_their_weights(make):
    """Also after a resume: the fused optimizer is slower with mixed layouts."""
    loop = make()
    list(loop.run())
    resumed = make()
    resumed.resume(*saved_state(loop))
    strides = {name: p.stride() for name, p in resumed.model.denoiser.named_parameters()}
    moments = {
        k.removesuffix(".exp_avg"): v for k, v in resumed.optimizer_step.state_dict().items() if k.endswith(".exp_avg")
    }
    assert {name: moment.stride() for name, moment in moments.items()} == strides
