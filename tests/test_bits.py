"""Code lengths of a model: what of it can be known without training."""

from __future__ import annotations

import math

import pytest
import torch

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.likelihood.ode import RungeKutta
from fromnoise.evaluation.likelihood import Measure, Piece, gaps
from fromnoise.evaluation.metrics.frechet import Estimate
from fromnoise.model import build
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

SMALL = {
    "network.width": 8,
    "network.multipliers": [1],
    "network.blocks": 1,
    "network.groups": 4,
    "network.attention_resolutions": [],
    "network.middle_attention": False,
    "diffusion.steps": 20,
    "sample.steps": 20,
}


def measure(batch: int = 8, **over) -> Measure:
    """Of a fresh network, on grey 4x4 images."""
    recipe = recipes.load("digits", SMALL | {key.replace("_", ".", 1): value for key, value in over.items()})
    model = build(recipe, DatasetInfo((1, 4, 4)))
    compute = select_device("cpu", "fp32")
    compute.to_device(model.denoiser).eval()
    return Measure(model, compute, batch=batch)


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (12, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_whole_and_sampled_agree(pixels):
    """The estimate from some steps is that of all, within their errors."""
    many = pixels.repeat(20, 1, 1, 1)
    whole, some = measure().bound(pixels, None, None), measure(batch=240).bound(many, None, 6)
    a, b = Estimate.of(whole.each), Estimate.of(some.each)
    noise = b.error + float((some.each.reshape(20, 12).mean(0) - whole.each).std()) / 12**0.5
    assert abs(a.value - b.value) < 4 * noise
    assert a.value == pytest.approx(Piece(whole, None).parts()["steps"] + whole.prior + whole.decoder)


def test_the_profile_adds_up(pixels):
    """Terms by step, times their steps, and the prior are the bound."""
    for visits in (None, 7):
        found = measure().bound(pixels, None, visits)
        total = sum(bits * (last - first + 1) for first, last, bits in found.by_step)
        assert total + found.prior == pytest.approx(float(found.each.mean()), rel=1e-9)
        assert found.by_step[0][:2] == (1, 1) and found.by_step[-1][1] == 20


def test_measures_do_not_depend_on_the_batch(pixels):
    """Image i's noise is of (seed, i)."""
    one, other = measure(batch=12), measure(batch=5)
    assert torch.allclose(one.bound(pixels, None, None).each, other.bound(pixels, None, None).each, rtol=1e-5)
    solver = RungeKutta(4)
    assert torch.allclose(one.flow(pixels, None, solver), other.flow(pixels, None, solver), rtol=1e-4)


def test_a_learned_variance_is_measured_with(pixels):
    """The bound of a model that learns its variance is that of the variance it says."""
    learner = measure(diffusion_learned_variance=True, loss_weighting="hybrid")
    said = learner.bound(pixels, None, None).each
    fixed = Measure(
        build(
            recipes.load(
                "digits",
                SMALL | {"diffusion.learned_variance": True, "loss.weighting": "hybrid", "sample.variance": 0.0},
            ),
            DatasetInfo((1, 4, 4)),
        ),
        learner.compute,
    )
    assert not torch.allclose(said, fixed.bound(pixels, None, None).each, rtol=1e-3)


def test_one_step_is_refused(pixels):
    """It has no second step to read the decoder's variance from."""
    with pytest.raises(UserError, match="one step"):
        measure(diffusion_steps=1, sample_steps=1).bound(pixels, None)


def test_a_solver_that_gives_up(pixels):
    """One line."""

    class Fails(RungeKutta):
        def solve(self, slope, state, start, end):
            raise ArithmeticError("the flow could not be solved: too stiff")

    with pytest.raises(UserError, match="tolerance"):
        measure().flow(pixels, None, Fails())


def test_gaps_have_the_error_of_both():
    """Held out less training."""
    bound = measure().bound(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), None, None)
    held_out, training = Piece(bound, torch.tensor([1.0, 3.0])), Piece(bound, torch.tensor([0.0, 1.0]))
    found = gaps(held_out, training)
    assert found["flow"].value == 1.5 and found["flow"].error == pytest.approx(math.hypot(1.0, 0.5))
    assert found["bound"].value == 0
    assert list(gaps(held_out, Piece(bound, None))) == ["bound"]
