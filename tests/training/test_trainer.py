"""The loop: exact resume, dropped steps, accumulation, and nothing that disturbs it."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from fromnoise.networks import layers
from fromnoise.utils.errors import UserError


def tensors(trainer):
    """All tensors of a state, cloned."""
    return {k: v.clone() for k, v in trainer.state()[0].items()}


def written(trainer):
    """A state as it would come back from the disk."""
    return tensors(trainer), json.loads(json.dumps(trainer.state()[1]))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def lines(reports):
    """Reports without what depends on the machine."""
    return [json.dumps({k: v for k, v in r.line().items() if k != "clock"}) for r in reports if r.kept]


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


def uninterrupted(again, starts=(0, 1, 5, 11)):
    """12 steps are k and the rest from the state of step k, bit for bit; ``again`` makes a trainer."""
    whole = again()
    states, reports = {0: written(whole)}, []
    for report in whole.run():
        reports.append(report)
        states[report.step] = written(whole)
    for k in starts:
        other = again()
        other.resume({n: t.clone() for n, t in states[k][0].items()}, states[k][1])
        rest = list(other.run())
        assert same(tensors(other), tensors(whole)), k
        assert lines(rest) == lines(reports[k:])
        before, after = dict(other.state()[1]["progress"]), dict(whole.state()[1]["progress"])
        before.pop("seconds"), after.pop("seconds")
        assert before == after
    return reports


@pytest.mark.parametrize("name", VARIANTS)
def test_resumed_is_uninterrupted(name, make):
    """Weights, moments, averages, reports."""
    uninterrupted(lambda: make(**VARIANTS[name]))


@pytest.fixture
def plain(make):
    """Losses of 12 steps in float32."""
    return torch.tensor([r.loss for r in make().run()])


def test_in_bfloat16(make, plain):
    """Resumed is uninterrupted there too, and the losses are those of float32 to 2 %."""
    reports = uninterrupted(lambda: make(precision="bf16"), (5,))
    torch.testing.assert_close(torch.tensor([r.loss for r in reports]), plain, rtol=0.02, atol=0)


def test_without_c(make, plain, monkeypatch):
    """Torch's own normalisation: the losses agree to 1e-4, and resumed is uninterrupted."""
    monkeypatch.setattr(layers, "can_fuse", lambda x: False)
    reports = uninterrupted(make, (5,))
    torch.testing.assert_close(torch.tensor([r.loss for r in reports]), plain, rtol=1e-4, atol=0)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled(make):
    """A compiled network: the losses agree with an eager one's to 1e-4, and resumed is uninterrupted."""

    def compiled():
        trainer = make(network_dropout=0)
        trainer.model.denoiser.network.compile()
        return trainer

    reports = uninterrupted(compiled, (5,))
    eager = torch.tensor([r.loss for r in make(network_dropout=0).run()])
    torch.testing.assert_close(torch.tensor([r.loss for r in reports]), eager, rtol=1e-4, atol=0)


def test_accumulation_is_the_same_gradient(make):
    """A batch in four parts trains as in one, to float32 rounding (dropout off: it draws by part)."""
    one, four = (make(steps=6, network_dropout=0.0, train_accumulate=n) for n in (1, 4))
    losses = [[r.loss for r in t.run()] for t in (one, four)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    a, b = one.weights(), four.weights()
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-4


def test_what_does_not_fit_in_memory_is_taken_in_parts(make):
    """Found out once; then as a run that accumulates from the start, bit for bit."""

    def tight(trainer, most):
        plain, trainer.tried = trainer.objective.forward, []

        def forward(x0, *args, **kwargs):
            trainer.tried.append(len(x0))
            if len(x0) > most:
                raise torch.OutOfMemoryError("too much")
            return plain(x0, *args, **kwargs)

        trainer.objective.forward = forward
        return trainer

    said = []
    found, want = tight(make(steps=3, log=said.append), 5), make(steps=3, train_accumulate=4)
    list(found.run())
    list(want.run())
    assert same(tensors(found), tensors(want))
    assert found.tried[:2] == [16, 8] and set(found.tried[2:]) == {4}
    assert len(said) == 2 and "going on with 4" in said[-1]
    with pytest.raises(UserError, match="recompute"):
        list(tight(make(steps=3), 0).run())


def test_measuring_does_not_disturb(make):
    """Held-out losses and previews draw from randomness of their own: the same weights with and without."""
    quiet, busy = make(train_evaluations=1), make(train_evaluations=12)
    list(quiet.run())
    for _ in busy.run():
        busy.evaluate()
        busy.weights()
    assert same(tensors(quiet), tensors(busy))


def test_held_out_loss_compares(make):
    """The same weights always have the same held-out loss: times and noise belong to the picture."""
    trainer = make()
    first = trainer.evaluate()
    assert first == trainer.evaluate()
    list(trainer.run())
    assert trainer.evaluate()["held_out"] < first["held_out"]
    assert len(first["loss_by_t"]) == 10


def test_loss_falls(make):
    """On real digits the loss of a few hundred steps is far below that of the first."""
    trainer = make(steps=150, train_lr=3e-3, network_dropout=0.0, train_report_every=30)
    kept = [r.loss for r in trainer.run() if r.kept]
    assert kept[-1] < 0.7 * kept[0]


def poison(trainer, bad):
    """Make the loss NaN, or infinite, at the steps for which ``bad`` says so."""
    plain = trainer.objective.forward

    def forward(*args, **kwargs):
        losses = plain(*args, **kwargs)
        factor = math.nan if trainer.progress.step % 2 else math.inf
        return losses._replace(weighted=losses.weighted * factor) if bad(trainer) else losses

    trainer.objective.forward = forward


def test_a_bad_step_is_dropped_and_counted(make):
    """Neither weights nor moments nor averages move; the next step goes on."""
    trainer = make(steps=6)
    poison(trainer, lambda t: t.progress.step in (2, 3))
    before, dropped = None, []
    for report in trainer.run():
        dropped.append(report.dropped)
        if report.step in (3, 4):
            assert same(tensors(trainer), before)
        else:
            assert before is None or not same(tensors(trainer), before)
        before = tensors(trainer)
    assert dropped == [0, 0, 1, 2, 2, 2]
    assert all(bool(t.isfinite().all()) for t in trainer.weights().values())


def test_after_several_it_goes_back(make):
    """To the last good state, at half the learning rate, and says so; training then ends well (PD#44)."""
    saved, said = [], []
    trainer = make(steps=14, last_good=lambda skip: saved[-1], log=said.append)
    poison(trainer, lambda t: 4 <= t.progress.step < 9)
    rates = []
    for report in trainer.run():
        rates.append(report.lr)
        if report.step == 3:
            saved.append(written(trainer))
        if report.step == 9:
            assert report.rollbacks == 1 and report.dropped == 5
            assert same(tensors(trainer), saved[0][0])
    assert trainer.progress.lr_scale == 0.5
    assert any("back to the weights of step 3" in line and "halved" in line for line in said)
    assert all(bool(t.isfinite().all()) for t in trainer.weights().values())


def test_hopeless_runs_end_with_a_word(make):
    """Not an endless loop: after ten goings-back in a row the user is told what to look at."""
    trainer = make(steps=500)
    poison(trainer, lambda t: True)
    with pytest.raises(UserError, match="not finite"):
        list(trainer.run())
    assert trainer.progress.step < 100


def test_batches_that_cannot_be_shared(make):
    """Told before anything is built."""
    with pytest.raises(UserError, match="3 equal parts"):
        make(train_accumulate=3)


def test_minutes_follow_the_clock(make):
    """A budget in minutes ends on time, and learning rate and progress run their whole course."""
    trainer = make(steps=None, train_minutes=0.05, train_evaluations=1)
    reports = list(trainer.run())
    assert trainer.progress.seconds >= 3 and reports[-1].progress == 1
    assert reports[0].progress < reports[-2].progress < 1  # the step that ends it began in time
    assert reports[-1].lr < 0.5 * max(r.lr for r in reports)  # the last step begins before the end


def test_stop_ends_after_the_running_step(make):
    """As Ctrl-C asks."""
    trainer = make(steps=100)
    for report in trainer.run():
        if report.step == 3:
            trainer.stop()
    assert trainer.progress.step in (3, 4) and trainer.stopping


def test_it_goes_further_back_if_the_last_state_is_bad(make):
    """A state written between a good step and the first bad one may hold weights that give NaN (DD#61)."""
    asked = []
    trainer = make(steps=40)
    good = written(trainer)
    bad = ({k: torch.full_like(v, math.nan) if k.startswith("model.") else v for k, v in good[0].items()}, good[1])

    def last_good(skip):
        asked.append(skip)
        return bad if skip == 0 else good

    trainer._last_good = last_good
    poison(trainer, lambda t: t.progress.step < 5)
    list(trainer.run())
    assert asked == [0, 1]
    assert trainer.progress.dropped == 10 and trainer.progress.rollbacks == 2
    assert all(bool(t.isfinite().all()) for t in trainer.weights().values())


def test_held_out_images_are_of_every_class(make):
    """Sets often lie class by class: those that are measured are picked over all of them."""
    trainer = make(train_held_out=45)
    seen = []
    plain = trainer._images
    trainer._images = lambda pixels, labels: seen.append(labels) or plain(pixels, labels)
    trainer.data.held_out.labels, kept = torch.arange(90) // 9, trainer.data.held_out.labels
    try:
        trainer.evaluate()
    finally:
        trainer.data.held_out.labels = kept
    assert len(torch.cat(seen).unique()) >= 9


def test_moments_lie_in_memory_as_their_weights_do(make):
    """After a resume too: the fused optimiser is slower over mixed layouts."""
    trainer = make()
    list(trainer.run())
    again = make()
    again.resume(*written(trainer))
    strides = {name: p.stride() for name, p in again.model.denoiser.named_parameters()}
    moments = {
        k.removesuffix(".exp_avg"): v for k, v in again.optimizer_step.state_dict().items() if k.endswith(".exp_avg")
    }
    assert {name: moment.stride() for name, moment in moments.items()} == strides
