"""Likelihood of images under untrained models: bound, flow and their estimates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fromnoise import config as recipes
from fromnoise.data import to_float
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.likelihood.ode import RungeKutta
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.likelihood import LikelihoodEvaluator
from fromnoise.evaluation.likelihood_results import LikelihoodResult, generalization_gaps
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
    "diffusion.schedule.steps": 20,
    "sample.steps": 20,
}


def evaluator(changes: dict[str, Any] | None = None, batch: int = 8) -> LikelihoodEvaluator:
    """Of an untrained network for grey 4x4 images, with changes to the recipe."""
    recipe = recipes.load("digits", SMALL | (changes or {}))
    model = build(recipe, DatasetInfo((1, 4, 4)))
    compute = select_device("cpu", "fp32")
    compute.to_device(model.denoiser).eval()
    return LikelihoodEvaluator(model, compute, batch=batch)


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (12, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_sampled_steps_agree_with_all_steps(pixels):
    """Within the errors of both."""
    many = pixels.repeat(20, 1, 1, 1)
    whole, sampled = evaluator().bound(pixels, None, None), evaluator(batch=240).bound(many, None, 6)
    a, b = Estimate.mean_of(whole.each), Estimate.mean_of(sampled.each)
    noise = b.error + float((sampled.each.reshape(20, 12).mean(0) - whole.each).std()) / 12**0.5
    assert abs(a.value - b.value) < 4 * noise
    assert a.value == pytest.approx(LikelihoodResult(whole, None).bound_parts()["steps"] + whole.prior + whole.decoder)


def test_terms_by_step_add_up_to_the_bound(pixels):
    """Together with the prior."""
    for sampled_steps in (None, 7):
        found = evaluator().bound(pixels, None, sampled_steps)
        total = sum(bits * (last - first + 1) for first, last, bits in found.by_step)
        assert total + found.prior == pytest.approx(float(found.each.mean()), rel=1e-9)
        assert found.by_step[0][:2] == (1, 1) and found.by_step[-1][1] == 20


def test_likelihood_does_not_depend_on_the_batch(pixels):
    """The noise of image i depends on (seed, i)."""
    one, other = evaluator(batch=12), evaluator(batch=5)
    assert torch.allclose(one.bound(pixels, None, None).each, other.bound(pixels, None, None).each, rtol=1e-5)
    solver = RungeKutta(4)
    assert torch.allclose(one.flow(pixels, None, solver), other.flow(pixels, None, solver), rtol=1e-4)


def test_bound_of_a_learned_variance(pixels):
    """The bound of a model with learned variance uses that variance."""
    learner = evaluator({"diffusion.learned_variance": True, "loss.objective": "hybrid"})
    learned = learner.bound(pixels, None, None).each
    fixed = LikelihoodEvaluator(
        build(
            recipes.load(
                "digits",
                SMALL
                | {"diffusion.learned_variance": True, "loss.objective": "hybrid"}
                | {"sample.sampler": "ancestral", "sample.sampler.variance": 0.0},
            ),
            DatasetInfo((1, 4, 4)),
        ),
        learner.compute,
    )
    assert not torch.allclose(learned, fixed.bound(pixels, None, None).each, rtol=1e-3)


def test_a_model_with_one_step_has_no_bound(pixels):
    """The decoder's variance is that of the second step."""
    with pytest.raises(UserError, match="one step"):
        evaluator({"diffusion.schedule.steps": 1, "sample.steps": 1}).bound(pixels, None)


def test_failure_of_the_ode_solver(pixels):
    """The error names an option."""

    class Fails(RungeKutta):
        def solve(self, slope, state, start, end):
            raise ArithmeticError("the flow could not be solved: too stiff")

    with pytest.raises(UserError, match="tolerance"):
        evaluator().flow(pixels, None, Fails())


def test_b10_generalization_gaps():
    """B10: held-out minus training, with the error of differences where equally many images share their noise.

    Version 0.1 had the root of the sum of both squared errors, here 1.12 in place of 0.5.
    """
    bound = evaluator().bound(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), None, None)
    held_out, training = (
        LikelihoodResult(bound, torch.tensor([1.0, 3.0])),
        LikelihoodResult(bound, torch.tensor([0.0, 1.0])),
    )
    found = generalization_gaps(held_out, training)
    assert found["flow"].value == 1.5 and found["flow"].error == pytest.approx(0.5)
    more = LikelihoodResult(bound, torch.tensor([0.0, 1.0, 2.0]))
    found_of_other_sizes = generalization_gaps(held_out, more)["flow"]
    assert found_of_other_sizes.error == pytest.approx(math.hypot(1.0, 3**-0.5))
    assert found["bound"].value == 0
    assert list(generalization_gaps(held_out, LikelihoodResult(bound, None))) == ["bound"]


# ---- what is measured of models that are not plain (review B4)


def test_b4_offset_noise_in_the_likelihood(pixels):
    """Another strength gives other numbers, and the output says it.

    In version 0.1 both had white noise, and equal numbers.
    """
    plain, offset = evaluator(), evaluator({"loss.offset_noise": 0.5})
    assert not torch.allclose(plain.bound(pixels, None, None).each, offset.bound(pixels, None, None).each, rtol=1e-3)
    assert any("offset noise of strength 0.5" in line for line in offset.description())
    with pytest.raises(UserError, match="offset noise"):
        learned = {"diffusion.learned_variance": True, "loss.objective": "hybrid", "loss.offset_noise": 0.5}
        evaluator(learned).bound(pixels, None, None)


def test_b4_self_conditioned_models_get_their_own_estimate(pixels):
    """Two evaluations a step, the second with the first one's estimate.

    Version 0.1 gave zeros in place of the estimate.
    """
    found = evaluator({"loss.self_conditioning": True, "network.zero_output": False})
    inputs: list[torch.Tensor] = []
    found.model.denoiser.network.register_forward_hook(lambda net, args, out: inputs.append(args[0]))
    found.bound(pixels, None, 1)
    assert len(inputs) % 2 == 0
    first, second = inputs[-2:]
    assert torch.equal(first[:, :1], second[:, :1]) and float(first[:, 1:].abs().max()) == 0
    assert float(second[:, 1:].abs().max()) > 0
    assert any("own estimate" in line for line in found.description())


def test_b4_pseudo_labels_are_coded_and_used(pixels):
    """Bits of the label, -log2 p(k) of the image's cluster, plus those of the image given the label.

    Version 0.1 measured the null label.
    """
    found = evaluator({"data.labels": False, "data.pseudo_labels": 3, "network.zero_output": False})
    labels = found.model.denoiser.pseudo_labels
    points = labels.downsample(to_float(pixels))
    labels.fit(points[:3], points)
    assigned = labels.assign(to_float(pixels))
    cost = -labels.weights[assigned].double().log2() / 16
    bound = found.bound(pixels, None, None)
    torch.testing.assert_close(bound.each, found.bound(pixels, assigned, None).each + cost)
    assert bound.label == pytest.approx(float(cost.mean()))
    result = LikelihoodResult(bound, None)
    assert sum(result.bound_parts().values()) == pytest.approx(float(bound.each.mean()))
    solver = RungeKutta(2)
    torch.testing.assert_close(found.flow(pixels, None, solver), found.flow(pixels, assigned, solver) + cost)
    assert any("pseudo-label" in line for line in found.description())
