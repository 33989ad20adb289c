"""The EM loop: when E-steps run, the labels it samples, given labels, moves and resumption."""

from __future__ import annotations

import copy
import json
import math
from functools import lru_cache

import pytest
import torch

from fromnoise import config as recipes
from fromnoise.clustering.em import EM, encoder_log_likelihood
from fromnoise.clustering.expectation import EStep
from fromnoise.clustering.given_labels import align_clusters
from fromnoise.clustering.init import smoothed_one_hot
from fromnoise.clustering.round_report import objective_plot, round_tables
from fromnoise.clustering.rounds import ChangeByStep, Round
from fromnoise.clustering.task import build_model, prepare
from fromnoise.diffusion.likelihood.e_step import mixture_elbo, mixture_weights, responsibilities
from fromnoise.evaluation.estimate import Estimate
from fromnoise.reporting.documents import Table
from fromnoise.training.distributed import make_accelerator
from fromnoise.training.loop import TrainingLoop
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
    "diffusion.schedule.steps": 50,
    "sample.steps": 3,
    "clustering.count": 3,
    "clustering.rounds": 3,
    "clustering.e_step_refine": 4,
}
IMAGES = 60


@lru_cache
def task_of_digits():
    """60 digits."""
    return prepare(recipes.load("mixture", TINY | {"clustering.images": IMAGES}), lambda line: None)


def make(given=None, q=None, **over) -> EM:
    """EM on 60 digits, from uniform responsibilities if ``q`` is left out."""
    dotted = {key.replace("_", ".", 1): value for key, value in over.items()}
    recipe = recipes.load("mixture", TINY | dotted)
    task = copy.deepcopy(task_of_digits())
    loop = TrainingLoop(build_model(recipe, task), task.data, select_device("cpu", "fp32"), make_accelerator(cpu=True))
    return EM(loop, torch.full((IMAGES, 3), 1 / 3, dtype=torch.float64) if q is None else q, given)


def run_rounds(em: EM, stop_after: int | None = None) -> list[Round]:
    """Run to the end, or stop after a step."""
    found = []
    for report in em.run():
        if isinstance(report, Round):
            found.append(report)
        elif report.step == stop_after:
            em.stop()
    return found


def test_e_steps_are_evenly_spaced_after_the_warmup():
    """The last one is at the end of the budget."""
    em = make(clustering_warmup=0.5)
    found = run_rounds(em)
    assert [r.step for r in found] == [6, 9, 12] and em.finished
    assert found[0].change is None and found[1].change is not None
    assert math.isfinite(found[2].objective.value) and sum(found[2].weights) == pytest.approx(1)
    assert [em.temperature(n) for n in (1, 3)] == [em.config.temperature, em.config.temperature_last]


def test_training_labels_are_sampled_from_the_responsibilities():
    """In their proportions; never a cluster of probability 0."""
    q = torch.tensor([0.7, 0.3, 0.0], dtype=torch.float64).repeat(IMAGES, 1)
    em, parts = make(q=q), []
    for em.state.rounds in range(20):
        em._sample_labels()
        parts.append(em.images.labels.clone())
    labels = torch.cat(parts)
    assert int(labels.max()) == 1
    assert abs(float((labels == 0).double().mean()) - 0.7) < 4 * (0.21 / len(labels)) ** 0.5


def test_given_labels_stay_fixed():
    """Whatever the bounds are; initial clusters are renumbered to agree with them."""
    given = torch.full((IMAGES,), -1)
    given[:6] = torch.tensor([0, 1, 2, 0, 1, 2])
    em = make(given=given)
    run_rounds(em)
    assert torch.equal(em.state.q.argmax(1)[:6], given[:6]) and float(em.state.q[:6].amax(1).min()) == 1
    q = torch.eye(3, dtype=torch.float64)[[2, 0, 1, 2, 0, 1]]
    aligned = align_clusters(q, torch.tensor([0, 1, 2, -1, -1, -1]))
    assert torch.equal(aligned.argmax(1), torch.tensor([0, 1, 2, 0, 1, 2]))


def test_a_resumed_run_is_bit_identical():
    """Stopped between two rounds, or right before one, and continued from its state; also what the rounds report."""
    whole = make(train_decay="constant")
    rounds = [r.json() for r in run_rounds(whole)]
    for stop in (6, 10):
        part = make(train_decay="constant")
        found = run_rounds(part, stop)
        assert part.loop.progress.step == stop and not part.finished
        tensors, header = part.loop.state()
        tensors = {k: v.clone() for k, v in (tensors | part.tensors()).items()}
        after = make(train_decay="constant", q=torch.rand(IMAGES, 3, dtype=torch.float64))
        after.loop.resume(tensors, header)
        after.resume(tensors, len(found))
        assert [r.json() for r in found + run_rounds(after)] == rounds
        assert torch.equal(after.state.q, whole.state.q) and torch.equal(after.state.objective, whole.state.objective)
        for name, weight in whole.loop.ema_state_dict().items():
            assert torch.equal(weight, after.loop.ema_state_dict()[name]), name


UNMOVED = {"clustering_split_merge": 0.0, "clustering_min_weight": 0.0}
UNMOVED |= {"clustering_temperature": 1.0, "clustering_temperature_last": 1.0}


def uncertain() -> torch.Tensor:
    """Random responsibilities."""
    return torch.softmax(2 * torch.randn(IMAGES, 3, dtype=torch.float64), 1)


def test_the_parts_of_a_change_add_up():
    """Weights, moves, training and E-step; also in JSON, and with a state that an older version wrote."""
    em = make(q=uncertain(), clustering_encoder_weight=0.5, clustering_concentration=1.0, **UNMOVED)
    em.run_e_step()
    older = {k: v.clone() for k, v in em.tensors().items() if k not in ("em.after_weights", "em.after_moves")}
    found = next(r for r in em.run() if isinstance(r, Round))
    assert found.change is not None and found.change_by is not None and found.number == 2
    parts = found.change_by
    total = sum(getattr(parts, k).value for k in ("weights", "moves", "training", "e_step"))
    assert total == pytest.approx(found.change.value, abs=1e-9)
    assert parts.moves.value == 0 != parts.training.value and min(parts.weights.value, parts.e_step.value) > 0
    assert all(each.n == IMAGES and each.error >= 0 for each in (parts.weights, parts.training, parts.e_step))
    saved = json.loads(json.dumps(found.json()))
    assert saved["change_by"]["training"] == parts.training.json() and saved["bound"]["n"] == IMAGES
    em.resume(older, 1)
    found = em.run_e_step()
    assert found is not None and found.change is not None and found.change_by is None


def test_an_e_step_without_training_is_the_e_steps_part():
    """With the same network F rises by KL(q_old || q_new) at least 0; with the same q too, by 0."""
    em = make(q=uncertain(), clustering_rounds=4, clustering_encoder_weight=0.5, **UNMOVED)
    em.run_e_step()
    before = em.state
    second = em.run_e_step()
    assert second is not None and second.change_by is not None
    assert second.change_by.training.value == second.change_by.moves.value == 0 < second.change_by.e_step.value
    kl = (before.q * (before.q.log() - em.state.q.log())).sum(1)
    assert second.change_by.e_step.value == pytest.approx(float(kl.mean()))
    em.state.weights = before.weights
    third = em.run_e_step()
    assert third is not None and third.change_by is not None
    assert third.change_by.e_step.value == third.e_step_gain.value == third.reassigned == 0


def test_split_and_merge_moves_have_a_part_of_their_own():
    """Reseeding a collapsed start replaces the E-step's q by another one; none of it counts as training."""
    q = smoothed_one_hot(torch.zeros(IMAGES, dtype=torch.int64), 3)
    em = make(q=q, clustering_encoder_weight=0.0)
    first = em.run_e_step()
    assert first is not None and first.reseeded and first.change_by is None
    unmoved, moved = em.state.after_weights, em.state.after_moves
    second = em.run_e_step()
    assert second is not None and second.change_by is not None
    assert second.change_by.moves == Estimate.mean_of(moved - unmoved) and second.change_by.moves.value < 0
    assert second.change_by.training.value == pytest.approx(0, abs=1e-9)


def test_an_interrupted_e_step_continues_after_its_last_batch(monkeypatch):
    """Without evaluating images again, and with the same result."""
    monkeypatch.setattr("fromnoise.clustering.expectation._NETWORK_BATCH", 60)
    whole, part = make(), make()
    run_rounds(whole)
    for _ in part.run(lambda fraction: part.stop()):
        pass
    assert part.state.rounds == 0 and part.loop.progress.step == 6 and len(part.state.nats) == 20
    after = make()
    tensors, header = part.loop.state()
    after.loop.resume({k: v.clone() for k, v in tensors.items()}, header)
    after.resume(part.tensors(), 0)
    run_rounds(after)
    assert torch.equal(after.state.q, whole.state.q) and torch.equal(after.state.objective, whole.state.objective)


def test_a_stop_within_the_bound(monkeypatch):
    """The estimates of the E-step are kept, and the next call gives the round of an uninterrupted one."""
    em, same = make(), make()
    original = EStep.cross_fitted_elbo

    def stopping(*args):
        em.stop()
        yield from original(*args)

    monkeypatch.setattr(EStep, "cross_fitted_elbo", stopping)
    assert em.run_e_step() is None and em.state.rounds == 0 and len(em.state.nats) == IMAGES
    monkeypatch.undo()
    em._stopped = False
    assert em.run_e_step() == same.run_e_step()


def test_rounds_of_an_older_version_are_shown(tmp_path):
    """They have neither bound nor causes; beside newer ones both tables and the plot have their places."""
    rounds = [make_round(number, change=Estimate(1.0, 0.1, 60) if number > 1 else None).json() for number in (1, 2)]
    old = [{k: v for k, v in r.items() if k not in ("change_by", "bound", "e_step_gain")} for r in rounds]
    for some, tables in ((old, 1), (old[:1] + rounds[1:], 2), ([], 1)):
        blocks = round_tables(some, 1.0, 0.3)
        assert sum(isinstance(block, Table) for block in blocks) == tables
        objective_plot(some, tmp_path / "objective.png")
        assert (tmp_path / "objective.png").stat().st_size > 0


def make_round(number: int, change: Estimate | None) -> Round:
    """A round with made-up numbers."""
    part = Estimate(0.25, 0.1, 60)
    causes = ChangeByStep(part, part, part, part) if change else None
    return Round(number, 10, 1.0, Estimate(-5.0, 0.1, 60), change, causes, part, part, 0.1, 0.9, (0.5, 0.5), ())


@pytest.mark.slow
def test_ten_random_initializations():
    """No cluster is lost, and the objective never falls by more than twice its error."""
    for seed in range(10):
        q = smoothed_one_hot(torch.randint(3, (IMAGES,), generator=torch.Generator().manual_seed(seed)), 3)
        em = make(
            q=q,
            train_seed=seed,
            train_steps=24,
            clustering_rounds=3,
            clustering_temperature=1.0,
            clustering_e_step_probes=3,
        )
        found = run_rounds(em)
        assert min(found[-1].weights) > 0.02 and sum(found[-1].weights) == pytest.approx(1)
        for r in found[1:]:
            assert r.change is not None and r.change.value > -2 * r.change.error, (seed, r)
        assert found[-1].objective.value > found[0].objective.value


def test_the_encoder_term_follows_bayes_rule():
    """With equal bounds the posterior is the encoder's; with an uninformative encoder it is the model's."""
    q = torch.softmax(torch.randn(500, 3, dtype=torch.float64), 1)
    assert torch.allclose(responsibilities(-encoder_log_likelihood(q), mixture_weights(q)), q)
    even = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).expand(500, 3)
    nats = torch.randn(500, 3, dtype=torch.float64)
    with_encoder = responsibilities(nats - 0.7 * encoder_log_likelihood(even), mixture_weights(even))
    assert torch.allclose(with_encoder, responsibilities(nats, mixture_weights(even)))


def test_encoder_weight_zero_has_no_encoder_term():
    """The initial clusters are then a starting point only."""
    q = torch.softmax(torch.randn(IMAGES, 3, dtype=torch.float64), 1)
    assert float(make(q=q, clustering_encoder_weight=0.0).state.encoder_nats.abs().max()) == 0
    assert float(make(q=q, clustering_encoder_weight=1.0).state.encoder_nats.abs().max()) > 0


def test_b6_with_the_encoders_likelihood_the_objective_is_no_bound():
    """Two unit Gaussians, whose exact posteriors are the encoder's opinion: F exceeds log p(x), by at most log Q.

    Version 0.1 called it a lower bound on log p.
    """
    means, weights = torch.tensor([-2.0, 2.0], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    component = torch.arange(2000) % 2
    x = means[component] + torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nats = 0.5 * (x[:, None] - means) ** 2 + 0.5 * math.log(2 * math.pi)
    log_p = torch.logsumexp(weights.log() - nats, 1)
    encoder_nats = -encoder_log_likelihood(torch.softmax(weights.log() - nats, 1))
    for encoder_weight, bound in ((0.0, True), (1.0, False)):
        terms = nats + encoder_weight * encoder_nats
        objective = mixture_elbo(responsibilities(terms, weights), terms, weights)
        excess = float((objective - log_p).mean())
        assert (excess < 1e-9) == bound and excess < math.log(2) + 1e-6


def test_the_normalization_of_the_joint_model_with_an_encoder():
    """Z = sum_c pi_c E_{p_c}[r_c^w] by quadrature: 1 at w = 0, between 1 and Q at w = 1, near Q for clear clusters.

    With it, F is below the logarithm of a density that integrates to 1.
    """
    x = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64)
    for distance, low, high in ((0.3, 1.0, 1.1), (1.0, 1.1, 1.9), (5.0, 1.99, 2.0)):
        nats = 0.5 * (x[:, None] - distance * torch.tensor([-1.0, 1.0])) ** 2 + 0.5 * math.log(2 * math.pi)
        ratio = torch.softmax(weights.log() - nats, 1) / weights
        joint = (weights * torch.exp(-nats) * ratio).sum(1)
        z = float(torch.trapezoid(joint, x))
        assert low <= z <= high + 1e-9
        terms = nats - ratio.log()
        objective = mixture_elbo(responsibilities(terms, weights, 2.0), terms, weights)
        assert bool((objective - math.log(z) <= (joint / z).log() + 1e-9).all())
