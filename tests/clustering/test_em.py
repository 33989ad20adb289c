"""The loop: when it revises, what it tells the trainer, what it respects, revives and resumes."""

from __future__ import annotations

import copy
import math
from functools import lru_cache

import pytest
import torch
from accelerate import Accelerator

from fromnoise import config as recipes
from fromnoise.clustering.em import EM, Round, witness
from fromnoise.clustering.fit import aligned, model_of, prepare
from fromnoise.clustering.init import one_hot_responsibilities
from fromnoise.diffusion.likelihood.e_step import posterior, shares
from fromnoise.training.trainer import Trainer
from fromnoise.utils.device import select_device

TINY = {
    "data.source": "digits",
    "clustering.warmup": 0.5,
    "network.width": 8,
    "network.multipliers": [1],
    "network.groups": 4,
    "network.patch": 2,
    "train.batch": 16,
    "train.steps": 12,
    "train.held_out": 16,
    "train.evaluations": 1,
    "diffusion.steps": 50,
    "sample.steps": 3,
    "clustering.count": 3,
    "clustering.rounds": 3,
}
IMAGES = 60


@lru_cache
def loaded():
    """A few digits."""
    return prepare(recipes.load("mixture", TINY), IMAGES, lambda line: None)


def make(given=None, q=None, **over) -> EM:
    """EM on a few digits, from a first q that is even."""
    dotted = {key.replace("_", ".", 1): value for key, value in over.items()}
    recipe = recipes.load("mixture", TINY | dotted)
    task = copy.deepcopy(loaded())
    trainer = Trainer(model_of(recipe, task), task.data, select_device("cpu", "fp32"), Accelerator(cpu=True))
    return EM(trainer, torch.full((IMAGES, 3), 1 / 3, dtype=torch.float64) if q is None else q, given)


def rounds(em: EM, stop_after: int | None = None) -> list[Round]:
    """Run to the end, or until so many steps are done."""
    found = []
    for said in em.run():
        if isinstance(said, Round):
            found.append(said)
        elif said.step == stop_after:
            em.stop()
    return found


def test_rounds_come_when_they_should():
    """After the warm-up, evenly, and the last when the budget is used."""
    em = make(clustering_warmup=0.5)
    found = rounds(em)
    assert [r.step for r in found] == [6, 9, 12] and em.finished
    assert found[0].change is None and found[1].change is not None
    assert math.isfinite(found[2].bound.value) and sum(found[2].shares) == pytest.approx(1)
    assert [em.temperature(n) for n in (1, 3)] == [em.config.temperature, em.config.temperature_last]


def test_images_are_told_what_q_says():
    """In its proportions; never a cluster of probability 0."""
    q = torch.tensor([0.7, 0.3, 0.0], dtype=torch.float64).repeat(IMAGES, 1)
    em, told = make(q=q), []
    for em.state.rounds in range(20):
        em._tell()
        told.append(em.images.labels.clone())
    told = torch.cat(told)
    assert int(told.max()) == 1
    assert abs(float((told == 0).double().mean()) - 0.7) < 4 * (0.21 / len(told)) ** 0.5


def test_given_clusters_stay():
    """Whatever the bounds say; and the first clusters are renumbered to fit."""
    given = torch.full((IMAGES,), -1)
    given[:6] = torch.tensor([0, 1, 2, 0, 1, 2])
    em = make(given=given)
    rounds(em)
    assert torch.equal(em.state.q.argmax(1)[:6], given[:6]) and float(em.state.q[:6].amax(1).min()) == 1
    q = torch.eye(3, dtype=torch.float64)[[2, 0, 1, 2, 0, 1]]
    assert torch.equal(aligned(q, torch.tensor([0, 1, 2, -1, -1, -1])).argmax(1), torch.tensor([0, 1, 2, 0, 1, 2]))


def test_resumed_is_the_same_bit_for_bit():
    """Stopped between two rounds, or right before one, and continued from its state."""
    whole = make(train_decay="constant")
    rounds(whole)
    for stop in (6, 10):
        part = make(train_decay="constant")
        found = rounds(part, stop)
        assert part.trainer.progress.step == stop and not part.finished
        tensors, header = part.trainer.state()
        tensors = {k: v.clone() for k, v in (tensors | part.tensors()).items()}
        after = make(train_decay="constant", q=torch.rand(IMAGES, 3, dtype=torch.float64))
        after.trainer.resume(tensors, header)
        after.resume(tensors, len(found))
        rounds(after)
        assert torch.equal(after.state.q, whole.state.q) and torch.equal(after.state.bounds, whole.state.bounds)
        for name, weight in whole.trainer.weights().items():
            assert torch.equal(weight, after.trainer.weights()[name]), name


def test_stopped_within_an_e_step(monkeypatch):
    """It goes on after the images that it has seen."""
    monkeypatch.setattr("fromnoise.clustering.em._ROWS", 60)
    whole, part = make(), make()
    rounds(whole)
    for _ in part.run(lambda share: part.stop()):
        pass
    assert part.state.rounds == 0 and part.trainer.progress.step == 6 and len(part.state.nats) == 20
    after = make()
    tensors, header = part.trainer.state()
    after.trainer.resume({k: v.clone() for k, v in tensors.items()}, header)
    after.resume(part.tensors(), 0)
    rounds(after)
    assert torch.equal(after.state.q, whole.state.q) and torch.equal(after.state.bounds, whole.state.bounds)


@pytest.mark.slow
def test_ten_random_beginnings():
    """No cluster is lost, and the bound never falls by more than its error."""
    for seed in range(10):
        q = one_hot_responsibilities(torch.randint(3, (IMAGES,), generator=torch.Generator().manual_seed(seed)), 3)
        em = make(
            q=q, train_seed=seed, train_steps=60, clustering_rounds=3, clustering_temperature=1.0, clustering_first=3
        )
        found = rounds(em)
        assert min(found[-1].shares) > 0.02 and sum(found[-1].shares) == pytest.approx(1)
        for r in found[1:]:
            assert r.change is not None and r.change.value > -2 * r.change.error, (seed, r)
        assert found[-1].bound.value > found[0].bound.value


def test_a_witness_is_bayes_rule():
    """If images tell nothing, the posterior is what the sorting said; if the sorting tells nothing, the images'."""
    q = torch.softmax(torch.randn(500, 3, dtype=torch.float64), 1)
    assert torch.allclose(posterior(witness(q, 1.0), shares(q)), q)
    assert float(witness(q, 0.0).abs().max()) == 0
    even = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).expand(500, 3)
    nats = torch.randn(500, 3, dtype=torch.float64)
    assert torch.allclose(posterior(nats + witness(even, 0.7), shares(even)), posterior(nats, shares(even)))
