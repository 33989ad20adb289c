"""Tuning: deterministic, the network is left alone, gradients reach every number, and recomputing changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.tuning import Tuned, tune
from fromnoise.tuning.features import DenoiserFeatures, PerceptualDistance
from fromnoise.tuning.learning import _Tuning
from fromnoise.tuning.parameters import StepParameters
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

COMPUTE = select_device("cpu", "fp32")
TINY = {"network.width": 8, "network.multipliers": [1, 2], "network.groups": 4, "network.zero_output": False}
TINY |= {"network.attention_resolutions": [], "network.middle_attention": False}


def model(**changes):
    """A network that was not trained."""
    built = build(recipes.load("digits", TINY | {k.replace("__", "."): v for k, v in changes.items()}), INFO)
    built.denoiser.eval()
    return built


INFO = DatasetInfo((1, 8, 8))


def test_tuning_is_deterministic_and_leaves_the_network_alone(monkeypatch):
    """Two runs give the same numbers; no weight changes, and all of them can be trained afterwards."""
    monkeypatch.setattr("fromnoise.tuning.learning._CHECKED", 16)
    found = []
    for _ in range(2):
        built = model()
        weights = {name: t.clone() for name, t in built.denoiser.state_dict().items()}
        *steps, last = tune(built, COMPUTE, 3, iterations=3, batch=8)
        assert [s.iteration for s in steps] == [1, 2, 3]
        assert all(torch.equal(weights[name], t) for name, t in built.denoiser.state_dict().items())
        assert all(p.requires_grad for p in built.denoiser.parameters())
        assert isinstance(last, Tuned)
        found.append(last)
    assert found[0] == found[1]
    assert found[0].steps is not None and found[0].after < found[0].before


def test_gradients_reach_every_number_and_recomputing_does_not_change_them(monkeypatch):
    """Spacing, network times, the coefficients of x and of every prediction that a step has."""
    gradients = []
    for limit in (0, 1 << 40):
        monkeypatch.setattr("fromnoise.tuning.learning._KEPT_ACTIVATIONS", limit)
        built = model()
        built.denoiser.requires_grad_(False)
        config = built.recipe.sample.model_copy(update={"steps": 3, "tuned": False})
        parameters = StepParameters(built.schedule, built.levels(config))
        teacher = built.levels(config.model_copy(update={"steps": 6}))
        tuning = _Tuning(built, COMPUTE, config, parameters, teacher, 8, 1)
        ids = torch.arange(8)
        tuning.distance(ids, tuning.references(ids)).backward()
        gradients.append([p.grad for p in parameters.parameters()])
        spacing, shift, keep, weights = gradients[-1]
        assert bool((spacing != 0).all()) and bool((shift[1:] != 0).all()) and bool((keep[:-1] != 0).all())
        assert bool((weights[torch.ones(3, 3).tril().bool()] != 0).all())
        assert bool((weights[torch.ones(3, 3).triu(1).bool()] == 0).all())
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, rtol=1e-4, atol=1e-8)


def test_the_distance_is_of_each_image_alone():
    """Activations are functions of the image and its number, at every resolution below its own; equal images have 0."""
    features = DenoiserFeatures(model().denoiser, COMPUTE, (1, 8, 8), seed=1)
    x0 = torch.rand(4, 1, 8, 8) * 2 - 1
    ids = torch.arange(4)
    with torch.no_grad():
        for together, alone in zip(features(x0, ids), features(x0[2:3], ids[2:3]), strict=True):
            assert together.shape[2:] == (4, 4) and together.shape[1] >= 16
            torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)
        distance = PerceptualDistance(features)
        assert float(distance(x0, x0, ids)) == 0 < float(distance(x0, x0.flip(0), ids))


def test_steps_are_tuned_with_the_guidance_of_the_recipe(monkeypatch):
    """Guidance by a weaker version of the model; the numbers are used with that scale alone."""
    monkeypatch.setattr("fromnoise.tuning.learning._CHECKED", 16)
    guided = {"ema__weak_at": 0.1, "sample__guidance_method": "autoguidance", "sample__guidance": 1.5}
    found = []
    for scale in (None, 1.0):
        built = model(**guided)
        with torch.no_grad():
            built.denoiser.keep_weak({}, 1)
            for p in built.denoiser.network.parameters():
                p.mul_(1.1)
        built.denoiser.eval()
        *_, last = tune(built, COMPUTE, 3, guidance=scale, iterations=2, batch=8)
        assert isinstance(last, Tuned) and last.steps is not None
        assert last.steps.guidance == (1.5 if scale is None else scale)
        own = built.recipe.sample.model_copy(update={"steps": 3})
        tuned = replace(built, tuned={3: last.steps})
        for asked in (1.5, 1.0, 2.0):
            used = tuned.tuned_steps(own.model_copy(update={"guidance": asked}))
            assert (used is not None) == (asked == last.steps.guidance)
        other = own.model_copy(update={"guidance": 1.5, "interval": (0.2, 0.8)})
        assert tuned.tuned_steps(other) is None
        found.append(last)
    assert found[0].before != found[1].before


def test_what_cannot_be_tuned_is_refused():
    """Too many steps, a grid that does not begin at t = 1, a scale that is none, and guidance without labels."""
    with pytest.raises(UserError, match="at least 0"):
        tune(model(), COMPUTE, 5, guidance=-1.0)
    with pytest.raises(UserError, match="needs a model trained with labels"):
        tune(model(), COMPUTE, 5, guidance=2.0)
    with pytest.raises(UserError, match="choose from 1 to 100"):
        tune(model(), COMPUTE, 101)
    with pytest.raises(UserError, match="leave it out"):
        tune(model(sample__grid="leading"), COMPUTE, 7)
